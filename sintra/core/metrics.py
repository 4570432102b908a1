"""Every metric of result.json in one table: its unit, sense, limit, and where it is shown.

A new metric is one row of METRICS. Its order is that of every list of metrics that people see.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Kind = Literal[
    "size",  # bytes of the files
    "quality",  # against the 16-bit model, on a text
    "task",  # answers to a task's questions
    "speed",  # tokens per second
    "sustained",  # tokens per second of a hot device
    "memory",  # bytes in memory
    "loading",  # seconds to load the files
    "agreement",  # of two runtimes about the same model
]
View = Literal[
    "card",  # the model card of the hub export
    "dashboard",  # studies side by side
    "history",  # `doit history --format=csv`
]
TASK = "task:"  # how the name of a task's metric begins
DEPTH = "@d"  # what stands before the tokens in the cache, in a speed's name
SECOND = "second_"  # how the name of a metric on texts.second begins


@dataclass(frozen=True)
class Column:
    """A metric's column in tables of results."""

    head: str  # a star behind it says: estimated for the device
    scale: float  # base units of the metric in one unit of the column
    digits: int  # after the decimal point


@dataclass(frozen=True)
class Metric:
    """What a number of result.json is, and where it may be limited, optimized and shown."""

    name: str  # as in result.json; {task} stands for a task's name
    kind: Kind  # what it says of a variant
    unit: str  # of its values: bytes, nats, bits, tokens/s, s, or 1 (a ratio or share)
    meaning: str  # how it is obtained, for the reference page
    _: KW_ONLY
    larger_is_better: bool | None = False  # None: neither is better
    label: str = ""  # in a sentence; empty: its name
    objective: str = ""  # what goal.optimise looks for, in words; empty: it doesn't take the metric
    option: str = ""  # what limits it, without `goal.`; empty: it can't be limited
    option_scale: int = 1  # base units in one unit of the option
    option_unit: str = ""  # unit of the option's values; empty: the metric's own
    option_label: str = ""  # how a form asks for it; empty: no form does
    percent: bool = False  # whether people read it in percent
    column: Column | None = None  # in the table of a sweep or a comparison; None: not there
    views: tuple[View, ...] = ()  # where else it is listed by default
    index_title: str = ""  # in the model index of a model card; empty: not there

    @property
    def op(self) -> Literal["<=", ">="]:
        """Return how a value compares with a limit that it holds."""
        return ">=" if self.larger_is_better else "<="

    @property
    def sense(self) -> int:
        """Return the factor that makes the best value the smallest: -1 where larger is better."""
        return -1 if self.larger_is_better else 1

    @property
    def better(self) -> str:
        """Return the sense in a word: larger, smaller, or nothing where neither is better."""
        return {True: "larger", False: "smaller", None: ""}[self.larger_is_better]


METRICS = (
    Metric(
        "size_bytes",
        "size",
        "bytes",
        "the file, or all files of a checkpoint",
        label="size",
        objective="the smallest variant",
        option="max_size_mb",
        option_scale=10**6,
        option_unit="MB",
        option_label="file at most, MB",
        column=Column("MB", 1e6, 2),
        views=("card", "dashboard", "history"),
    ),
    Metric(
        "kld_mean",
        "quality",
        "nats",
        "mean Kullback-Leibler divergence a token, from the 16-bit model's prediction to "
        "the variant's, over the second half of each window (llama.cpp's --kl-divergence)",
        label="mean KL divergence",
        objective="the variant with the lowest KL divergence",
        option="max_kld",
        option_label="mean KL divergence at most, nats",
        column=Column("KLD", 1, 5),
        views=("card", "dashboard", "history"),
        index_title="Mean KL divergence to the 16-bit model (nats)",
    ),
    Metric(
        "kld_p999",
        "quality",
        "nats",
        "its 99.9th percentile over tokens: the rare, bad ones",
        label="99.9 % KL divergence",
        objective="the variant with the lowest 99.9 % KL divergence",
        option="max_kld_p999",
        views=("card", "dashboard"),
    ),
    Metric(
        "kld_mean_search",
        "quality",
        "nats",
        "kld_mean on the search text, where the report text has decided",
    ),
    Metric(
        "same_top",
        "quality",
        "1",
        "the share of tokens at which both models think the same token most likely",
        larger_is_better=True,
        label="same top token",
        objective="the variant with the most equal top tokens",
        option="min_same_top",
        percent=True,
        views=("card", "dashboard"),
        index_title="Share of equal top tokens",
    ),
    Metric("ppl", "quality", "1", "perplexity: e to the mean negative log-likelihood of the text"),
    Metric(
        "ppl_ratio",
        "quality",
        "1",
        "perplexity over that of the 16-bit model on the same tokens, paired",
        label="perplexity ratio",
        objective="the variant with the least rise in perplexity",
        option="max_ppl_ratio",
        views=("card", "dashboard"),
        index_title="Perplexity over the 16-bit model's",
    ),
    Metric(
        "bits_per_byte",
        "quality",
        "bits",
        "bits needed for a byte of text: comparable between tokenizers",
        label="bits per byte of text",
        column=Column("bits/byte", 1, 4),
        views=("card", "dashboard"),
    ),
    Metric(
        "device_tg_tps",
        "speed",
        "tokens/s",
        "token generation on the device: estimated, or measured on it",
        larger_is_better=True,
        label="generation",
        objective="the fastest variant",
        option="min_tg_tps",
        option_label="tokens/s at least, on the device",
        column=Column("tok/s*", 1, 1),
        views=("card", "dashboard"),
    ),
    Metric(
        "device_pp_tps",
        "speed",
        "tokens/s",
        "prompt processing on the device: estimated, or measured on it",
        larger_is_better=True,
        label="prompt processing",
        objective="the variant fastest at reading prompts",
        option="min_pp_tps",
        views=("card",),
    ),
    Metric(
        "device_tg_tps_sustained",
        "sustained",
        "tokens/s",
        "token generation when the device is hot: simulated",
        larger_is_better=True,
        label="generation when hot",
        objective="the variant fastest when hot",
        option="min_tg_tps_sustained",
    ),
    Metric(
        "device_ram_bytes",
        "memory",
        "bytes",
        "memory on the device: weights, KV cache, buffers, runtime",
        label="memory",
        objective="the variant with the least memory",
        option="max_ram_gb",
        option_scale=2**30,
        option_unit="GiB",
        option_label="memory at most, GiB",
        column=Column("RAM MB*", 1e6, 0),
        views=("card", "dashboard"),
    ),
    Metric("device_load_s", "loading", "s", "from storage into the device's memory"),
    Metric(
        "tg_tps",
        "speed",
        "tokens/s",
        "token generation on the machine that measured: median of the repetitions",
        larger_is_better=True,
        label="generation here",
        objective="the variant with the best generation here",
        views=("card",),
    ),
    Metric(
        "pp_tps",
        "speed",
        "tokens/s",
        "prompt processing on the machine that measured: median of the repetitions",
        larger_is_better=True,
        label="prompt processing here",
        objective="the variant with the best prompt processing here",
        views=("card",),
    ),
    Metric(
        "ram_peak_bytes",
        "memory",
        "bytes",
        "peak resident memory over load, prompt and generation, without mmap",
        views=("card",),
    ),
    Metric("ram_peak_mmap_bytes", "memory", "bytes", "the same with the file mapped"),
    Metric(
        "ram_load_bytes", "memory", "bytes", "resident memory when the file is loaded, without mmap"
    ),
    Metric(
        "ram_prefill_bytes",
        "memory",
        "bytes",
        "peak resident memory while the prompt is read, without mmap",
    ),
    Metric(
        "ram_decode_bytes",
        "memory",
        "bytes",
        "peak resident memory while tokens are generated, without mmap",
    ),
    Metric(
        "vram_peak_bytes", "memory", "bytes", "peak memory of the GPU (checkpoints in transformers)"
    ),
    Metric(
        "agree_tokens",
        "agreement",
        "1",
        "how far transformers' tokens of the text equal llama.cpp's (GPTQ, AWQ)",
        larger_is_better=True,
    ),
    Metric(
        "task:{task}:acc",
        "task",
        "1",
        "the share of right answers (`rougeL` for summaries, else lm-eval's name)",
        larger_is_better=True,
        percent=True,
    ),
    Metric(
        "task:{task}:baseline_acc",
        "task",
        "1",
        "the same of the 16-bit model",
        larger_is_better=True,
    ),
    Metric(
        "task:{task}:retention",
        "task",
        "1",
        "the first over the second, bootstrapped over paired questions",
        larger_is_better=True,
        option="min_task_retention",
        percent=True,
    ),
    Metric(
        "task:{task}:agreement",
        "task",
        "1",
        "the share of questions with the 16-bit model's answer, right or wrong",
        larger_is_better=True,
        percent=True,
    ),
    Metric(
        "task:{task}:flips",
        "task",
        "1",
        "the share of questions that went from right to wrong or back",
    ),
    Metric(
        "task:{task}:mcnemar_p",
        "task",
        "1",
        "McNemar's exact test: how often chance alone would split the flips so unevenly",
        larger_is_better=None,
    ),
)

BY_NAME = {m.name: m for m in METRICS}
TASK_RETENTION = BY_NAME["task:{task}:retention"]
LIMITS = {m.option: m for m in METRICS if m.option and m.kind != "task"}
OPTIMIZABLE = frozenset(m.name for m in METRICS if m.objective)
QUALITY = frozenset(m.name for m in METRICS if m.kind == "quality")
SPEED = frozenset(m.name for m in METRICS if m.kind == "speed")


def find_metric(name: str) -> Metric | None:
    """Return the row of a name in result.json; None for a plugin's own metric.

    Names of tasks, names on texts.second and speeds at a depth have the row of their family.
    """
    plain = name.removeprefix(SECOND).partition(DEPTH)[0]
    if not plain.startswith(TASK):
        return BY_NAME.get(plain)
    last = plain.rpartition(":")[2]
    family = f"{TASK}{{task}}:"
    score = "baseline_acc" if last.startswith("baseline_") else "acc"  # whatever the score is
    return BY_NAME.get(family + last) or BY_NAME[family + score]


def at_depth(metric: str, depth: int) -> str:
    """Return the name of a speed with so many tokens in the cache, such as tg_tps@d4096."""
    return f"{metric}{DEPTH}{depth}"


def metrics_in(view: View) -> tuple[str, ...]:
    """Return the names of the metrics that a view lists, in its order."""
    return tuple(m.name for m in METRICS if view in m.views)
