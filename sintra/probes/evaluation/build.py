"""Build an lm-eval task from a task's folder.

lm-eval gets no template, no pattern and no name of a file: questions, answers and choices are
filled in before (sintra.config.tasks.fields), and its rows hold nothing but their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sintra.config.tasks.fields import Fields
from sintra.config.tasks.files import FILE, TaskFile, read_fields, read_task
from sintra.config.tasks.format import IGNORED
from sintra.config.tasks.templates import TemplateError, find_all
from sintra.core.errors import UserError
from sintra.core.text import printable_line
from sintra.probes.evaluation.code import run_tests

DEFAULT_TOKENS = 64  # most tokens of an answer
DEFAULT_STOPS = ["\n"]  # texts that end an answer
OUTPUT_TYPES = {
    "choice": "multiple_choice",
    "answer": "generate_until",
    "summary": "generate_until",
    "code": "generate_until",
}
METRICS = {
    "choice": ("acc", "acc_norm"),
    "answer": ("acc",),
    "summary": ("rougeL", "rouge1", "rouge2"),
    "code": ("acc",),
}
ROW, DESCRIPTION = "sintra_row", "sintra_description"  # columns of lm-eval's rows
Scorer = Callable[[Fields, list[str]], dict[str, float]]
"""(the row's fields, [answer]) -> metric -> value."""


def build_task(folder: Path, name: str, run_code: bool) -> Any:
    """Return the lm_eval.api.task.ConfigurableTask of a folder with task.yaml and its data.

    run_code: whether programs that the model writes may be run. Raises UserError for mistakes in
    the folder.
    """
    from lm_eval.api.task import ConfigurableTask  # an optional package

    task = read_task(folder / FILE)
    if task.get("kind") == "code" and not run_code:
        raise UserError(f"{name} runs what the model writes: say probe.run_code=true to allow it")
    by_split = read_fields(task, lambda file: folder / Path(file).name)
    fields = [row for rows in by_split.values() for row in rows]
    config = task_config(task) if "kind" in task else native_config(task)
    if scorer := SCORERS.get(task.get("kind", "")):
        config["process_results"] = lambda row, answers: scorer(fields[row[ROW]], answers)
    try:
        return ConfigurableTask(
            config={
                **config,
                **field_functions(fields),
                "task": name,
                "dataset_path": "json",
                "dataset_kwargs": None,
                "custom_dataset": dataset_builder(by_split),
            }
        )
    except Exception as error:  # lm-eval checks a configuration by using it
        reason = printable_line(str(error), 160)
        raise UserError(
            f"{name}: lm-eval refuses this task: {type(error).__name__}: {reason}"
        ) from None


def dataset_builder(by_split: dict[str, list[Fields]]) -> Callable[..., Any]:
    """Return the function that lm-eval calls for its data.

    Nothing is downloaded, and nothing is written to datasets' own cache.
    """

    def build_dataset(**_: Any) -> Any:
        from datasets import Dataset  # an optional package

        numbers, first = {}, 0
        for split, rows in by_split.items():
            texts = [str(row.get("description", "")) for row in rows]
            ids = list(range(first, first + len(rows)))
            numbers[split] = Dataset.from_dict({ROW: ids, DESCRIPTION: texts})
            first += len(rows)
        return numbers

    return build_dataset


def field_functions(fields: Sequence[Fields]) -> dict[str, Any]:
    """Return lm-eval's options for the fields of its rows; a row is known by its number."""

    def getter(name: str) -> Callable[[dict[str, Any]], Any]:
        return lambda row: fields[row[ROW]][name]

    options = {n: getter(n) for n in fields[0] if n != "description"}
    return options | ({"description": DESCRIPTION} if "description" in fields[0] else {})


def native_config(task: TaskFile) -> dict[str, Any]:
    """Return a task in lm-eval's format without what Sintra does itself."""
    config = {k: v for k, v in task.items() if k not in IGNORED and v is not None}
    if "filter_list" in config:
        config["filter_list"] = [
            {**entry, "filter": [limited(step) for step in entry["filter"]]}
            for entry in config["filter_list"]
        ]
    if "metric_list" in config:
        config["metric_list"] = [
            {k: v for k, v in entry.items() if k != "hf_evaluate"}
            for entry in config["metric_list"]
        ]
    return config


def limited(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step of a filter; the one that searches is Sintra's own."""
    return {**step, "function": RegexFilter} if step["function"] == "regex" else step


class RegexFilter:
    """lm-eval's filter `regex`, searching in a child process with a time limit."""

    def __init__(
        self,
        regex_pattern: str = r"#### (\-?[0-9\.\,]+)",
        group_select: int = 0,
        fallback: str = "[invalid]",
    ) -> None:
        self.pattern, self.group, self.fallback = regex_pattern, group_select, fallback

    def apply(self, resps: Sequence[Sequence[Any]], docs: Sequence[Any]) -> list[list[str]]:
        """Return what is found in each answer to each row. Raises UserError."""
        sets = [[r if isinstance(r, str) else "" for r in answers] for answers in resps]
        try:
            found = iter(
                find_all(self.pattern, [r for s in sets for r in s], self.group, self.fallback)
            )
        except TemplateError as error:
            raise UserError(f"filter_list: {self.pattern!r}: {error}") from None
        return [[next(found) for _ in answers] for answers in sets]


def task_config(task: TaskFile) -> dict[str, Any]:
    """Return lm-eval's configuration of a user's task."""
    kind = task["kind"]
    config: dict[str, Any] = {
        "test_split": "test",
        "output_type": OUTPUT_TYPES[kind],
        "num_fewshot": 0,
        "metric_list": [
            {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in METRICS[kind]
        ],
    }
    if kind == "choice":
        return config
    stops = task.get("stop", [] if kind == "code" else DEFAULT_STOPS)
    return config | {
        "generation_kwargs": {
            "until": [stops] if isinstance(stops, str) else list(stops),
            "do_sample": False,
            "max_gen_toks": int(task.get("max_tokens", DEFAULT_TOKENS)),
        },
    }


def score_exactly(fields: Fields, answers: list[str]) -> dict[str, float]:
    """Return whether the answer is one of those that the row takes.

    Case, punctuation and outer spaces don't count.
    """
    from lm_eval.api.metrics import exact_match_hf_evaluate  # an optional package

    value = fields["doc_to_target"]
    right = [str(r).strip() for r in (value if isinstance(value, list) else [value])]
    matches = exact_match_hf_evaluate(
        predictions=[answers[0].strip()] * len(right),
        references=right,
        ignore_case=True,
        ignore_punctuation=True,
    )
    return {"acc": float(matches["exact_match"] > 0)}


def score_summary(fields: Fields, answers: list[str]) -> dict[str, float]:
    """Return ROUGE F-measures with stemming, by Google's rouge-score
    (https://pypi.org/project/rouge-score).
    """
    from rouge_score.rouge_scorer import RougeScorer  # an optional package

    scorer = RougeScorer(list(METRICS["summary"]), use_stemmer=True)
    scores = scorer.score(str(fields["doc_to_target"]), answers[0])
    return {metric: float(value.fmeasure) for metric, value in scores.items()}


def score_code(fields: Fields, answers: list[str]) -> dict[str, float]:
    """Return whether the prompt with its completion passes the row's tests, in child processes
    (sintra.probes.evaluation.code).
    """
    program = f"{fields['doc_to_text']}{answers[0]}"
    return {"acc": float(run_tests(program, str(fields["doc_to_target"])).passed)}


SCORERS: dict[str, Scorer] = {
    "answer": score_exactly,
    "summary": score_summary,
    "code": score_code,
}
