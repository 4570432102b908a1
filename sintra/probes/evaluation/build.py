"""A task's folder as an lm-eval task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sintra.config.tasks import FILE, check_rows, read_rows, read_task, splits
from sintra.core.errors import UserError

DEFAULT_TOKENS, DEFAULT_STOPS = 64, ["\n"]
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


def build_task(folder: Path, name: str, run_code: bool) -> Any:
    """The lm_eval.api.task.ConfigurableTask of a folder with task.yaml and its data. Raises
    UserError.
    """
    from lm_eval.api.task import ConfigurableTask

    given = read_task(folder / FILE)
    data = {
        split: [r for f in files for r in read_rows(folder / Path(f).name)]
        for split, files in splits(given).items()
    }
    if "kind" in given:
        check_rows(given, data["test"], given["data"])
        if given["kind"] == "code" and not run_code:
            raise UserError(
                f"{name} runs what the model writes: say probe.run_code=true to allow it"
            )
        config = task_config(given, name)
    else:
        config = {**given, "task": name}
    if data:
        config = {
            **config,
            "dataset_path": "json",
            "dataset_kwargs": None,
            "custom_dataset": _held(data),
        }
    return ConfigurableTask(config=config)


def _held(data: dict[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    """What lm-eval calls for its data: nothing is downloaded, and nothing lands in datasets' own
    cache.
    """

    def dataset(**_: Any) -> Any:
        from datasets import Dataset

        return {split: Dataset.from_list(found) for split, found in data.items()}

    return dataset


def task_config(given: dict[str, Any], name: str) -> dict[str, Any]:
    """lm-eval's configuration of a user's task."""
    kind = given["kind"]
    config: dict[str, Any] = {
        "task": name,
        "test_split": "test",
        "output_type": OUTPUT_TYPES[kind],
        "doc_to_text": given["prompt"],
        "doc_to_target": given.get("answer") or given.get("tests"),
        "num_fewshot": 0,
        "metric_list": [
            {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in METRICS[kind]
        ],
    }
    if kind == "choice":
        return config | {"doc_to_choice": given["choices"]}
    stop = given.get("stop", [] if kind == "code" else DEFAULT_STOPS)
    stop = [stop] if isinstance(stop, str) else list(stop)
    most = int(given.get("max_tokens", DEFAULT_TOKENS))
    scorer = {"answer": exact_scorer, "summary": rouge_scorer, "code": code_scorer}[kind](given)
    return config | {
        "process_results": scorer,
        "generation_kwargs": {"until": stop, "do_sample": False, "max_gen_toks": most},
    }


Scorer = Callable[[dict[str, Any], list[str]], dict[str, float]]


def column_value(template: str, row: dict[str, Any]) -> Any:
    """A column of a row, or a template filled with it."""
    from lm_eval.utils import apply_template

    return row[template] if template in row else apply_template(template, row)


def exact_scorer(given: dict[str, Any]) -> Scorer:
    """Whether the answer is one of those that the row takes, but for case, punctuation and outer
    spaces.
    """

    def score(row: dict[str, Any], said: list[str]) -> dict[str, float]:
        from lm_eval.api.metrics import exact_match_hf_evaluate

        right = column_value(given["answer"], row)
        takes = [str(r).strip() for r in (right if isinstance(right, list) else [right])]
        found = exact_match_hf_evaluate(
            predictions=[said[0].strip()] * len(takes),
            references=takes,
            ignore_case=True,
            ignore_punctuation=True,
        )
        return {"acc": float(found["exact_match"] > 0)}

    return score


def rouge_scorer(given: dict[str, Any]) -> Scorer:
    """ROUGE F-measures with stemming, by Google's rouge-score
    (https://pypi.org/project/rouge-score).
    """

    def score(row: dict[str, Any], said: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        found = RougeScorer(list(METRICS["summary"]), use_stemmer=True).score(
            str(column_value(given["answer"], row)), said[0]
        )
        return {kind: float(row_found.fmeasure) for kind, row_found in found.items()}

    return score


def code_scorer(given: dict[str, Any]) -> Scorer:
    """Whether the prompt with its completion passes the row's tests, in a child
    (sintra.probes.evaluation.code).
    """

    def score(row: dict[str, Any], said: list[str]) -> dict[str, float]:
        from sintra.probes.evaluation.code import run_tests

        return {
            "acc": float(
                run_tests(
                    f"{column_value(given['prompt'], row)}{said[0]}",
                    str(column_value(given["tests"], row)),
                ).passed
            )
        }

    return score
