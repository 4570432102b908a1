"""One table of metrics: complete, and nowhere told a second time."""

import ast
from dataclasses import fields

import pytest
from conftest import ROOT

from sintra.config.options import GoalConf
from sintra.core.metrics import BY_NAME, LIMITS, METRICS, OPTIMIZABLE, find_metric, metrics_in

TABLE = ROOT / "sintra" / "core" / "metrics.py"
# lm-eval's own metrics have a sense in their task's YAML, which is handed on under these keys.
TASKS = ("sintra/probes/tasks.py", "sintra/probes/evaluation/compare.py")
OPERATORS = {"<=", ">="}
SENSES = {"smaller", "larger", "lower", "higher", "minimize", "maximize"}


def sources():
    return [p for p in sorted((ROOT / "sintra").rglob("*.py")) if p != TABLE]


def test_names_are_unique():
    assert len(BY_NAME) == len(METRICS)


def test_every_limit_of_a_goal_has_a_row():
    limits = {f.name for f in fields(GoalConf) if f.name.startswith(("max_", "min_"))}
    assert {m.option for m in METRICS if m.option} == limits
    assert set(LIMITS) == limits - {"min_task_retention"}


@pytest.mark.parametrize("metric", [m for m in METRICS if m.option], ids=lambda m: m.option)
def test_an_option_is_named_by_its_sense(metric):
    assert metric.option.startswith("min_" if metric.larger_is_better else "max_")
    assert metric.op == (">=" if metric.larger_is_better else "<=")
    assert metric.sense == (-1 if metric.larger_is_better else 1)


def test_what_a_goal_takes_can_be_said():
    assert {m.name for m in LIMITS.values()} <= OPTIMIZABLE
    assert all(BY_NAME[name].label for name in OPTIMIZABLE)
    assert all(BY_NAME[name].larger_is_better is not None for name in OPTIMIZABLE)


def test_speeds_are_to_be_large_and_everything_in_bytes_small():
    for metric in METRICS:
        if metric.unit == "tokens/s":
            assert metric.better == "larger", metric.name
        if metric.unit in ("bytes", "nats", "bits", "s"):
            assert metric.better == "smaller", metric.name


def test_families_have_one_row():
    assert find_metric("second_kld_mean") is BY_NAME["kld_mean"]
    assert find_metric("task:fable:flips") is BY_NAME["task:{task}:flips"]
    assert find_metric("task:hub:a:rougeL") is BY_NAME["task:{task}:acc"]
    assert find_metric("task:fable:baseline_rougeL") is BY_NAME["task:{task}:baseline_acc"]
    assert find_metric("second_task:fable:acc") is BY_NAME["task:{task}:acc"]
    assert find_metric("letters") is None


def test_views_keep_the_tables_order():
    card = metrics_in("card")
    assert card[:2] == ("size_bytes", "kld_mean")
    assert set(metrics_in("dashboard")) <= set(card)
    assert metrics_in("history") == ("size_bytes", "kld_mean")


def test_no_other_module_spells_out_a_sense():
    paths = [p for p in sources() if str(p.relative_to(ROOT)) not in TASKS]
    assert len(paths) > 150
    told = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if spells_a_sense(node)
    ]
    assert told == []


def spells_a_sense(node):
    """Whether a node is a word for a sense, a table named by it, or a metric beside an operator."""
    if isinstance(node, ast.Constant):
        return node.value in SENSES if isinstance(node.value, str) else False
    if isinstance(node, ast.Name):
        return node.id.isupper() and node.id.startswith(("LARGER", "SMALLER", "HIGHER", "LOWER"))
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return bool(constants(node.elts) & set(BY_NAME) and constants(node.elts) & OPERATORS)
    return isinstance(node, ast.Call) and bool(constants(node.args) & OPERATORS)


def constants(nodes):
    return {n.value for n in nodes if isinstance(n, ast.Constant)}
