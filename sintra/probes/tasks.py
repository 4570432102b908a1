"""Ask a model a task's questions through lm-eval: how many answers are right, and how many differ
from the baseline's.

A study's goal can limit the share of the baseline's score that is kept (goal.min_task_retention).
While variants are ranked every other item is asked; all of them decide. Accuracy hides much: many
answers can flip both ways and leave it unchanged (arXiv 2407.09141), hence agreement and flips
beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sintra.config.tasks import files as task_files
from sintra.config.tasks.files import FILE
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage, tool_version
from sintra.core.text import printable_line
from sintra.formats.gguf.chat_template import ChatTemplate, read_chat_template
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.probes.evaluation.build import build_task
from sintra.probes.evaluation.code import check_jail
from sintra.probes.evaluation.compare import Answer, Item, TaskResult, task_measurements
from sintra.probes.measurements import MEASUREMENTS_FILE, write_measurements

SEED = 1234  # lm-eval's own, for tasks that draw examples
PREFERRED_METRICS = ("acc", "exact_match")


def run(context: Context) -> None:
    """Write measurements.json and items.json (every item's score and answer).

    Raises UserError and Transient as `load_task` does.
    """
    if "task" in context.inputs:
        os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    params, path = context.params, context.inputs["gguf"] / "model.gguf"
    with open_model(
        path, context_window(path, params["context"]), context.threads, kv=params.get("kv", "f16")
    ) as model:
        result = score_task(context, model)
    context.write_json("items.json", result.as_json())
    base = None
    if "baseline" in context.inputs:
        base = TaskResult.of(json.loads((context.inputs["baseline"] / "items.json").read_text()))
    write_measurements(
        context,
        task_measurements(params["name"], result, base, params["seed"], describe_protocol(context)),
    )


def context_window(path: Path, most: int) -> int:
    """Return the model's own context length in tokens, or `most` if that is less."""
    return min(read_layout(path)["context"] or most, most)


def describe_protocol(context: Context) -> str:
    """Describe how the numbers came about, in a few words."""
    items = "every other item" if context.params["part"] == "half" else "all items"
    protocol = f"lm-eval {tool_version('lm_eval')} over llama.cpp, {items}"
    protocol += ", in the chat template" if context.params.get("chat") else ""
    return protocol + (", code run without any right" if runs_code(context) else "")


def runs_code(context: Context) -> bool:
    """Return whether the task runs what the model writes."""
    task = context.inputs.get("task")
    return task is not None and task_files.runs_code(task / FILE)


def score_task(context: Context, model: LlamaModel) -> TaskResult:
    """Ask the model everything.

    Raises UserError where it needs a chat template and has none, and where it writes code that
    cannot be run without rights here.
    """
    if runs_code(context):
        check_jail()
    # numpy is not on the no-op path; lm_eval is an optional package
    import numpy as np
    from lm_eval.evaluator import evaluate

    from sintra.probes.evaluation.lm import LlamaLM

    loaded = load_task(context)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    random.seed(0)
    np.random.seed(SEED)
    samples = None
    if context.params["part"] == "half":
        samples = {
            name: list(range(0, len(task.eval_docs), 2)) for name, task in loaded["tasks"].items()
        }
    template = needed_template(context)
    with without_module("evaluate"):
        results = evaluate(
            LlamaLM(model, context.say, template),
            loaded,
            samples=samples,
            bootstrap_iters=0,
            apply_chat_template=template is not None,
            fewshot_as_multiturn=template is not None,
        )
    return collect_items(results, loaded["tasks"])


def needed_template(context: Context) -> ChatTemplate | None:
    """Return the model's chat template if the step needs it. Raises UserError if it is missing."""
    if not context.params.get("chat"):
        return None
    template = read_chat_template(context.inputs["gguf"] / "model.gguf")
    if template is None or template.failure:
        reason = template.failure if template else "there is none"
        raise UserError(
            f"the model has no chat template that works ({reason}): leave probe.task_chat=true out"
        )
    return template


def load_task(context: Context) -> Any:
    """Load the task, or the tasks of a group, as lm-eval's dictionary.

    Raises UserError for an unknown name, Transient where its data cannot be downloaded.
    """
    from lm_eval.tasks import TaskManager  # an optional package

    name = context.params["name"]
    if "task" in context.inputs:
        task = build_task(context.inputs["task"], name, context.hints["run_code"])
        return TaskManager(include_defaults=False).load([task])
    manager = TaskManager()
    if name not in manager.all_tasks:
        raise UserError(
            f"probe.tasks: there is no models/tasks/{name}.yaml, and lm-eval has no task {name!r}"
        )
    return load_published(manager, name)


def load_published(manager: Any, name: str) -> Any:
    """Load a task of lm-eval's own. Raises UserError and Transient.

    Its metrics must be lm-eval's: `evaluate` runs a file of the hub for each of its own, and one of
    them runs what the model writes.
    """
    try:
        with without_module("evaluate"):
            loaded = manager.load([name])
    except ImportError as error:
        raise UserError(
            f"task {name} needs the package {error.name!r}, which isn't taken"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"lm-eval cannot build task {name} (or it needs code of the hub): "
            f"{type(error).__name__}: {printable_line(str(error), 160)}"
        ) from None
    except (OSError, ConnectionError) as error:
        raise Transient(
            f"the data of task {name} can't be had: {type(error).__name__}; own files need no "
            "network"
        ) from None
    for task in loaded["tasks"].values():
        if task.get_config("unsafe_code"):
            raise UserError(
                f"task {name} runs what the model writes with Sintra's own rights: write a task of "
                "kind code instead (docs/howto/tasks.md)"
            )
        if task.get_config("process_results") is None:
            check_metrics(name, task.get_config("metric_list") or [])
    return loaded


def check_metrics(name: str, metrics: list[dict[str, Any]]) -> None:
    """Raise UserError for a metric that only `evaluate` has."""
    from lm_eval.api.registry import metric_registry  # an optional package

    for entry in metrics:
        known = callable(entry["metric"]) or entry["metric"] in metric_registry
        if entry.get("hf_evaluate") or not known:
            raise UserError(
                f"task {name} needs the metric {entry['metric']!r} of `evaluate`, which is code of "
                "the hub"
            )


@contextlib.contextmanager
def without_module(name: str) -> Iterator[None]:
    """Let the import of a module fail meanwhile."""
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def collect_items(results: dict[str, Any], tasks: dict[str, Any]) -> TaskResult:
    """Return lm-eval's results as items.

    Of each task its first metric counts (acc before others), through its first filter. The value is
    the mean over all items.
    """
    items: list[Item] = []
    values, metric, larger = [], "", True
    for name in sorted(tasks):
        rows = results["samples"][name]
        first_filter = rows[0]["filter"]
        rows = sorted((r for r in rows if r["filter"] == first_filter), key=lambda r: r["doc_id"])
        metric = next((m for m in PREFERRED_METRICS if m in rows[0]), rows[0]["metrics"][0])
        larger = bool(tasks[name].higher_is_better().get(metric, True))
        items += [task_item(name, tasks[name], row, metric) for row in rows]
        values.append((len(rows), float(results["results"][name][f"{metric},{first_filter}"])))
    total = sum(n for n, _ in values)
    return TaskResult(metric, sum(n * v for n, v in values) / total, larger, tuple(items))


def task_item(name: str, task: Any, row: dict[str, Any], metric: str) -> Item:
    """Return an item of lm-eval's samples; the score is None where the metric is not a number."""
    value = row[metric]
    score = float(value) if isinstance(value, int | float) else None
    return f"{name}/{row['doc_id']}", score, item_answer(task, row)


def item_answer(task: Any, row: dict[str, Any]) -> Answer:
    """Return what the model chose or wrote; None where it was not asked anything."""
    responses = row["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        return max(range(len(responses)), key=lambda i: responses[i][0])
    if task.OUTPUT_TYPE == "generate_until":
        return str(responses[0]).strip()
    return bool(responses[0][1]) if task.OUTPUT_TYPE == "loglikelihood" else None


STAGE = Stage(
    "tasks",
    2,
    run,
    tools=("llama-cpp-python", "lm_eval"),
    files=(MEASUREMENTS_FILE, "items.json"),
    title="Ask questions",
)
