"""A task's questions to a model, through lm-eval: how many are right, and how many answers are no
longer the baseline's.

A study's goal can limit the share of the baseline's score that is kept (goal.min_task_retention).
While variants are ranked every other item is asked; all of them decide. Accuracy hides much: many
answers can flip both ways and leave it unchanged (arXiv 2407.09141), hence agreement and flips
beside it.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from sintra.config.tasks import FILE, read_task
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.chat_template import read_chat_template
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.probes.evaluation.compare import TaskResult, task_measurements
from sintra.probes.measurements import write_measurements

SEED = 1234  # lm-eval's own, for tasks that draw examples


def run(context: Context) -> None:
    """Write measurements.json and items.json (every item's score and answer)."""
    if "task" in context.inputs:
        os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    params, path = context.params, context.inputs["gguf"] / "model.gguf"
    with open_model(
        path, context_window(path, params["context"]), context.threads, kv=params.get("kv", "f16")
    ) as model:
        own = score_task(context, model)
    data = {"metric": own.metric, "value": own.value, "larger": own.larger, "items": own.items}
    context.write_json("items.json", data)
    base = None
    if "baseline" in context.inputs:
        base = TaskResult.of(json.loads((context.inputs["baseline"] / "items.json").read_text()))
    write_measurements(
        context,
        task_measurements(params["name"], own, base, params["seed"], describe_protocol(context)),
    )


def context_window(path: Path, most: int) -> int:
    """The model's own context length, or `most`."""
    return min(read_layout(path)["context"] or most, most)


def describe_protocol(context: Context) -> str:
    """How the numbers came about, in a few words."""
    from sintra.core.stage import tool_version

    which = "every other item" if context.params["part"] == "half" else "all items"
    how = f"lm-eval {tool_version('lm_eval')} over llama.cpp, {which}"
    how += ", in the chat template" if context.params.get("chat") else ""
    if "task" in context.inputs and read_task(context.inputs["task"] / FILE).get("kind") == "code":
        from sintra.probes.evaluation.code import network_is_cut

        how += f", code in a child, network {'cut' if network_is_cut() else 'not cut'}"
    return how


def score_task(context: Context, model: LlamaModel) -> TaskResult:
    """Ask everything."""
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
    chat = bool(context.params.get("chat"))
    template = read_chat_template(context.inputs["gguf"] / "model.gguf") if chat else None
    if chat and template is None:
        raise UserError("the model has no chat template: leave probe.task_chat=true out")
    asked = LlamaLM(model, context.say, template)
    found = evaluate(
        asked,
        loaded,
        samples=samples,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    return collect_items(found, loaded["tasks"])


def load_task(context: Context) -> Any:
    """The task, or the tasks of a group. Raises UserError for an unknown name, Transient where its
    data can't be had.
    """
    from lm_eval.tasks import TaskManager

    from sintra.probes.evaluation.build import build_task

    name = context.params["name"]
    if "task" in context.inputs:
        task = build_task(context.inputs["task"], name, context.hints["run_code"])
        return TaskManager(include_defaults=False).load([task])
    manager = TaskManager()
    if name not in manager.all_tasks:
        raise UserError(
            f"probe.tasks: there is no models/tasks/{name}.yaml, and lm-eval has no task {name!r}"
        )
    try:
        return manager.load([name])
    except (OSError, ConnectionError) as error:
        raise Transient(
            f"the data of task {name} can't be had: {type(error).__name__}; own files need no "
            "network"
        ) from None


def collect_items(found: dict[str, Any], tasks: dict[str, Any]) -> TaskResult:
    """lm-eval's results as items: of each task its first metric (acc before others), through its
    first filter.
    """
    items: list[tuple[str, float | None, Any]] = []
    values, metric, larger = [], "", True
    for name in sorted(tasks):
        rows = found["samples"][name]
        rows = sorted(
            (r for r in rows if r["filter"] == rows[0]["filter"]), key=lambda r: r["doc_id"]
        )
        metric = next((m for m in ("acc", "exact_match") if m in rows[0]), rows[0]["metrics"][0])
        larger = bool(tasks[name].higher_is_better().get(metric, True))
        for row in rows:
            whole = not isinstance(row[metric], int | float)
            items.append(
                (
                    f"{name}/{row['doc_id']}",
                    None if whole else float(row[metric]),
                    item_answer(tasks[name], row),
                )
            )
        values.append((len(rows), float(found["results"][name][f"{metric},{rows[0]['filter']}"])))
    total = sum(n for n, _ in values)
    return TaskResult(metric, sum(n * v for n, v in values) / total, larger, tuple(items))


def item_answer(task: Any, row: dict[str, Any]) -> Any:
    """What the model chose or said; None where it wasn't asked anything."""
    said = row["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        return max(range(len(said)), key=lambda i: said[i][0])
    if task.OUTPUT_TYPE == "generate_until":
        return str(said[0]).strip()
    return bool(said[0][1]) if task.OUTPUT_TYPE == "loglikelihood" else None


STAGE = Stage("tasks", 1, run, tools=("llama-cpp-python", "lm_eval"))
