"""What a task file in lm-eval's own format may say: a closed list of keys, metrics and filters.

lm-eval takes much more, and some of it runs code: `!function`, a metric with `hf_evaluate` (a file
of that name), data sets that are pickles, prompts of other packages. What is not listed here is
refused in one line.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from sintra.core.errors import UserError, nearest


class Metric(NamedTuple):
    """A metric of lm-eval's own code."""

    output_types: tuple[str, ...]  # that it is for
    aggregation: str  # its own


CHOICE, LIKELIHOOD = "multiple_choice", "loglikelihood"
ROLLING, GENERATE = "loglikelihood_rolling", "generate_until"
OUTPUT_TYPES = (CHOICE, LIKELIHOOD, ROLLING, GENERATE)
METRICS = {
    "acc": Metric((CHOICE, LIKELIHOOD), "mean"),
    "acc_norm": Metric((CHOICE,), "mean"),
    "acc_bytes": Metric((CHOICE,), "mean"),
    "acc_mutual_info": Metric((CHOICE,), "mean"),
    "brier_score": Metric((CHOICE,), "brier_score"),
    "f1": Metric((CHOICE,), "f1"),
    "mcc": Metric((CHOICE,), "matthews_corrcoef"),
    "perplexity": Metric((LIKELIHOOD,), "perplexity"),
    "word_perplexity": Metric((ROLLING,), "weighted_perplexity"),
    "byte_perplexity": Metric((ROLLING,), "weighted_perplexity"),
    "bits_per_byte": Metric((ROLLING,), "bits_per_byte"),
    "exact_match": Metric((GENERATE,), "mean"),
    "bleu": Metric((GENERATE,), "bleu"),
    "chrf": Metric((GENERATE,), "chrf"),
    "ter": Metric((GENERATE,), "ter"),
}
METRIC_KEYS = {
    "metric": str,
    "aggregation": str,
    "higher_is_better": bool,
    "hf_evaluate": bool,
    "ignore_case": bool,
    "ignore_punctuation": bool,
    "ignore_numbers": bool,
}
FILTERS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "take_first": {},
    "remove_whitespace": {},
    "lowercase": {},
    "uppercase": {},
    "map": {"mapping_dict": dict, "default_value": str},
    "regex": {"regex_pattern": str, "group_select": int, "fallback": str},
}
GENERATION_KEYS: dict[str, type | tuple[type, ...]] = {
    "until": (str, list),
    "do_sample": bool,
    "temperature": (int, float),
    "max_gen_toks": int,
}
KEYS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "task_alias": str,
    "tag": (str, list),
    "dataset_path": str,
    "dataset_name": str,
    "dataset_kwargs": dict,
    "training_split": str,
    "validation_split": str,
    "test_split": str,
    "fewshot_split": str,
    "num_fewshot": int,
    "output_type": str,
    "description": str,
    "doc_to_text": (str, int),
    "doc_to_target": (str, int, list),
    "doc_to_choice": (str, list, dict),
    "target_delimiter": str,
    "fewshot_delimiter": str,
    "generation_kwargs": dict,
    "metric_list": list,
    "filter_list": list,
    "should_decontaminate": bool,
    "doc_to_decontamination_query": str,
    "metadata": dict,
}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
IGNORED = (
    "task_alias",
    "tag",
    "dataset_name",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "metadata",
)  # what says nothing about the score


def check_native(path: Path, task: dict[str, Any], splits: set[str]) -> None:
    """Raise UserError for what is not in the list; splits: that the data files give."""
    check_keys(path, "", task, KEYS)
    if task.get("dataset_path") != "json" or not splits:
        raise UserError(
            f"{path}: data come from JSONL files: `dataset_path: json`, and `data_files` in "
            "dataset_kwargs"
        )
    for key in SPLITS:
        if task.get(key) is not None and task[key] not in splits:
            raise UserError(f"{path}: {key}: no split is called {task[key]!r} in data_files")
    if not (task.get("test_split") or task.get("validation_split")):
        raise UserError(f"{path} needs test_split (or validation_split)")
    for key in ("doc_to_text", "doc_to_target"):
        if task.get(key) is None:
            raise UserError(f"{path} needs {key}")
    if not is_answer(task["doc_to_target"]):
        raise UserError(f"{path}: doc_to_target is a text, a number, or a list of them")
    check_output(path, task)
    for number, entry in enumerate(task.get("filter_list") or [], 1):
        check_filters(path, f"filter_list, entry {number}", entry)


def check_output(path: Path, task: dict[str, Any]) -> None:
    """Check what is asked of the model, and how it is scored. Raises UserError."""
    kind = task.get("output_type", GENERATE)
    if kind not in OUTPUT_TYPES:
        raise UserError(f"{path}: output_type: {nearest(str(kind), OUTPUT_TYPES)}")
    if kind == CHOICE and not task.get("doc_to_choice"):
        raise UserError(f"{path}: output_type {kind} needs doc_to_choice")
    if kind != CHOICE and task.get("doc_to_choice") is not None:
        raise UserError(f"{path}: doc_to_choice is for output_type {CHOICE}")
    choices = task.get("doc_to_choice")
    if isinstance(choices, dict | list):
        values = list(choices.values()) if isinstance(choices, dict) else choices
        if not all(isinstance(value, str) and value for value in values):
            raise UserError(f"{path}: doc_to_choice is a list of texts")
    generation = task.get("generation_kwargs") or {}
    check_keys(path, "generation_kwargs: ", generation, GENERATION_KEYS)
    until = generation.get("until")
    if isinstance(until, list) and not all(isinstance(text, str) for text in until):
        raise UserError(f"{path}: generation_kwargs: until is a text or a list of texts")
    for number, entry in enumerate(task.get("metric_list") or [], 1):
        check_metric(path, f"metric_list, entry {number}", entry, kind)


def check_metric(path: Path, where: str, entry: Any, output_type: str) -> None:
    """Check an entry of metric_list. Raises UserError."""
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {where}: expected `metric: NAME`")
    if entry.get("hf_evaluate"):
        raise UserError(f"{path}: {where}: hf_evaluate runs a file of code, and isn't taken")
    check_keys(path, f"{where}: ", entry, METRIC_KEYS)
    metric = METRICS.get(entry.get("metric", ""))
    if metric is None or output_type not in metric.output_types:
        known = [name for name, m in METRICS.items() if output_type in m.output_types]
        raise UserError(
            f"{path}: {where}: {entry.get('metric')!r} isn't a metric of {output_type}: "
            f"{nearest(str(entry.get('metric')), known)}"
        )
    if entry.get("aggregation", metric.aggregation) != metric.aggregation:
        raise UserError(f"{path}: {where}: aggregation of this metric is {metric.aggregation!r}")


def check_filters(path: Path, where: str, entry: Any) -> None:
    """Check an entry of filter_list. Raises UserError."""
    steps = entry.get("filter") if isinstance(entry, dict) else None
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("name"), str)
        or set(entry)
        - {
            "name",
            "filter",
        }
    ):
        raise UserError(f"{path}: {where}: expected `name` and `filter`")
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{path}: {where}: `filter` is a list of functions")
    for step in steps:
        name = step.get("function") if isinstance(step, dict) else None
        if not isinstance(name, str) or name not in FILTERS:
            raise UserError(f"{path}: {where}: {nearest(str(name), FILTERS)}")
        check_keys(path, f"{where}: {name}: ", step, {"function": str, **FILTERS[name]})
        words = [word for pair in (step.get("mapping_dict") or {}).items() for word in pair]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{path}: {where}: mapping_dict maps texts to texts")


def is_answer(value: Any) -> bool:
    """Return whether a value can be an answer: a text, a number, or a list of them."""
    return all(
        type(v) in (str, int, float) for v in (value if isinstance(value, list) else [value])
    )


def short(value: Any) -> str:
    """Return a value of a file in a few words, however large it is (YAML's aliases multiply)."""
    return reprlib.repr(value)


def check_keys(path: Path, where: str, values: dict[str, Any], known: dict[str, Any]) -> None:
    """Raise UserError for a key that is not known, or a value of another kind."""
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{path}: {where}no key {short(key)}: {nearest(str(key), known)}")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if value is not None and type(value) not in kinds:
            wanted = " or ".join(WORDS[kind] for kind in kinds)
            raise UserError(f"{path}: {where}{key} is {wanted}, not {short(value)}")


WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}
