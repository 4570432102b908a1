"""What every metric of result.json means: name, unit, how it is obtained. The reference page is
made from this.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """name as in result.json ({task}: a task's name; with `second_` before it: on texts.second);
    unit; better: smaller, larger or neither; meaning.
    """

    name: str
    unit: str
    better: str
    meaning: str


METRICS = (
    Metric(
        "kld_mean",
        "nats",
        "smaller",
        "mean Kullback-Leibler divergence a token, from the 16-bit model's prediction to the "
        "variant's, over the second half of each window (llama.cpp's --kl-divergence)",
    ),
    Metric("kld_p999", "nats", "smaller", "its 99.9th percentile over tokens: the rare, bad ones"),
    Metric(
        "kld_mean_search",
        "nats",
        "smaller",
        "kld_mean on the search text, where the report text has decided",
    ),
    Metric(
        "same_top",
        "1",
        "larger",
        "the share of tokens at which both models think the same token most likely",
    ),
    Metric("ppl", "1", "smaller", "perplexity: e to the mean negative log-likelihood of the text"),
    Metric(
        "ppl_ratio",
        "1",
        "smaller",
        "perplexity over that of the 16-bit model on the same tokens, paired",
    ),
    Metric(
        "bits_per_byte",
        "bits",
        "smaller",
        "bits needed for a byte of text: comparable between tokenizers",
    ),
    Metric("size_bytes", "bytes", "smaller", "the file, or all files of a checkpoint"),
    Metric(
        "pp_tps",
        "tokens/s",
        "larger",
        "prompt processing on the machine that measured: median of the repetitions",
    ),
    Metric(
        "tg_tps",
        "tokens/s",
        "larger",
        "token generation on the machine that measured: median of the repetitions",
    ),
    Metric(
        "ram_peak_bytes",
        "bytes",
        "smaller",
        "peak resident memory over load, prompt and generation, without mmap",
    ),
    Metric("ram_peak_mmap_bytes", "bytes", "smaller", "the same with the file mapped"),
    Metric(
        "ram_load_bytes",
        "bytes",
        "smaller",
        "resident memory when the file is loaded, without mmap",
    ),
    Metric(
        "ram_prefill_bytes",
        "bytes",
        "smaller",
        "peak resident memory while the prompt is read, without mmap",
    ),
    Metric(
        "ram_decode_bytes",
        "bytes",
        "smaller",
        "peak resident memory while tokens are generated, without mmap",
    ),
    Metric(
        "vram_peak_bytes",
        "bytes",
        "smaller",
        "peak memory of the GPU (checkpoints in transformers)",
    ),
    Metric(
        "device_tg_tps",
        "tokens/s",
        "larger",
        "token generation on the device: estimated, or measured on it",
    ),
    Metric(
        "device_pp_tps",
        "tokens/s",
        "larger",
        "prompt processing on the device: estimated, or measured on it",
    ),
    Metric(
        "device_tg_tps_sustained",
        "tokens/s",
        "larger",
        "token generation when the device is hot: simulated",
    ),
    Metric(
        "device_ram_bytes",
        "bytes",
        "smaller",
        "memory on the device: weights, KV cache, buffers, runtime",
    ),
    Metric("device_load_s", "s", "smaller", "from storage into the device's memory"),
    Metric(
        "agree_tokens",
        "1",
        "larger",
        "how far transformers' tokens of the text equal llama.cpp's (GPTQ, AWQ)",
    ),
    Metric(
        "task:{task}:acc",
        "1",
        "larger",
        "the share of right answers (`rougeL` for summaries, else lm-eval's name)",
    ),
    Metric("task:{task}:baseline_acc", "1", "larger", "the same of the 16-bit model"),
    Metric(
        "task:{task}:retention",
        "1",
        "larger",
        "the first over the second, bootstrapped over paired questions",
    ),
    Metric(
        "task:{task}:agreement",
        "1",
        "larger",
        "the share of questions with the 16-bit model's answer, right or wrong",
    ),
    Metric(
        "task:{task}:flips",
        "1",
        "smaller",
        "the share of questions that went from right to wrong or back",
    ),
    Metric(
        "task:{task}:mcnemar_p",
        "1",
        "",
        "McNemar's exact test: how often chance alone would split the flips so unevenly",
    ),
)


def known(name: str) -> Metric | None:
    """The metric of a name in result.json."""
    plain = name.removeprefix("second_")
    if plain.startswith("task:"):
        head, _, last = plain.rpartition(":")
        plain = f"task:{{task}}:{last if last in ('retention', 'agreement', 'flips', 'mcnemar_p') else _score(last)}"
        assert head
    return next((m for m in METRICS if m.name == plain), None)


def _score(last: str) -> str:
    return "baseline_acc" if last.startswith("baseline_") else "acc"
