"""Build an lm-eval task from a task's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sintra.config.tasks import FILE, TaskFile, TaskRow, check_rows, read_rows, read_task, splits
from sintra.core.errors import UserError
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
Scorer = Callable[[TaskRow, list[str]], dict[str, float]]
"""(row, [answer]) -> metric -> value."""


def build_task(folder: Path, name: str, run_code: bool) -> Any:
    """Return the lm_eval.api.task.ConfigurableTask of a folder with task.yaml and its data.

    run_code: whether programs that the model writes may be run. Raises UserError for mistakes in
    the folder.
    """
    from lm_eval.api.task import ConfigurableTask  # an optional package

    task = read_task(folder / FILE)
    data = {
        split: [row for file in files for row in read_rows(folder / Path(file).name)]
        for split, files in splits(task).items()
    }
    if "kind" in task:
        check_rows(task, data["test"], task["data"])
        if task["kind"] == "code" and not run_code:
            raise UserError(
                f"{name} runs what the model writes: say probe.run_code=true to allow it"
            )
        config = task_config(task, name)
    else:
        config = {**task, "task": name}
    if data:
        config = {
            **config,
            "dataset_path": "json",
            "dataset_kwargs": None,
            "custom_dataset": _dataset_builder(data),
        }
    return ConfigurableTask(config=config)


def _dataset_builder(data: dict[str, list[TaskRow]]) -> Callable[..., Any]:
    """Return the function that lm-eval calls for its data.

    Nothing is downloaded, and nothing is written to datasets' own cache.
    """

    def build_dataset(**_: Any) -> Any:
        from datasets import Dataset  # an optional package

        return {split: Dataset.from_list(rows) for split, rows in data.items()}

    return build_dataset


def task_config(task: TaskFile, name: str) -> dict[str, Any]:
    """Return lm-eval's configuration of a user's task."""
    kind = task["kind"]
    config: dict[str, Any] = {
        "task": name,
        "test_split": "test",
        "output_type": OUTPUT_TYPES[kind],
        "doc_to_text": task["prompt"],
        "doc_to_target": task.get("answer") or task.get("tests"),
        "num_fewshot": 0,
        "metric_list": [
            {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in METRICS[kind]
        ],
    }
    if kind == "choice":
        return config | {"doc_to_choice": task["choices"]}
    stops = task.get("stop", [] if kind == "code" else DEFAULT_STOPS)
    scorer_of = {"answer": exact_scorer, "summary": rouge_scorer, "code": code_scorer}[kind]
    return config | {
        "process_results": scorer_of(task),
        "generation_kwargs": {
            "until": [stops] if isinstance(stops, str) else list(stops),
            "do_sample": False,
            "max_gen_toks": int(task.get("max_tokens", DEFAULT_TOKENS)),
        },
    }


def column_value(template: str, row: TaskRow) -> Any:
    """Return a column of a row, or a template filled with the row."""
    from lm_eval.utils import apply_template  # an optional package

    return row[template] if template in row else apply_template(template, row)


def exact_scorer(task: TaskFile) -> Scorer:
    """Return a scorer: whether the answer is one of those that the row takes.

    Case, punctuation and outer spaces don't count.
    """

    def score(row: TaskRow, answers: list[str]) -> dict[str, float]:
        from lm_eval.api.metrics import exact_match_hf_evaluate  # an optional package

        value = column_value(task["answer"], row)
        right = [str(r).strip() for r in (value if isinstance(value, list) else [value])]
        matches = exact_match_hf_evaluate(
            predictions=[answers[0].strip()] * len(right),
            references=right,
            ignore_case=True,
            ignore_punctuation=True,
        )
        return {"acc": float(matches["exact_match"] > 0)}

    return score


def rouge_scorer(task: TaskFile) -> Scorer:
    """Return a scorer: ROUGE F-measures with stemming, by Google's rouge-score
    (https://pypi.org/project/rouge-score).
    """

    def score(row: TaskRow, answers: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer  # an optional package

        scorer = RougeScorer(list(METRICS["summary"]), use_stemmer=True)
        scores = scorer.score(str(column_value(task["answer"], row)), answers[0])
        return {metric: float(value.fmeasure) for metric, value in scores.items()}

    return score


def code_scorer(task: TaskFile) -> Scorer:
    """Return a scorer: whether the prompt with its completion passes the row's tests, in a child
    process (sintra.probes.evaluation.code).
    """

    def score(row: TaskRow, answers: list[str]) -> dict[str, float]:
        program = f"{column_value(task['prompt'], row)}{answers[0]}"
        outcome = run_tests(program, str(column_value(task["tests"], row)))
        return {"acc": float(outcome.passed)}

    return score
