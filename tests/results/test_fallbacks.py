"""What is written in rows that hold no whole blocks of the types that were planned."""

import shutil

from conftest import ROOT, make_llama

from sintra.build.run import run_step
from sintra.results.result import fallbacks_of, original_layout, written_types
from sintra.results.table import fallback_words
from sintra.study.workspace import open_workspace


def test_types_that_rows_cannot_have():
    types = ["Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_K_M"]
    assert written_types(types, 576) == {
        "Q2_K": "Q4_0",
        "Q3_K": "Q4_0",
        "IQ4_XS": "IQ4_NL",
        "Q4_K": "Q5_0",
        "Q5_K": "Q5_1",
        "Q6_K": "Q8_0",
    }
    assert written_types(types, 1536) == {}


def test_the_result_says_what_is_really_in_the_files(tmp_path, converted):
    model = make_llama(tmp_path / "narrow", hidden=320)
    shutil.copytree(converted, tmp_path / "cache")
    raw = [f"model={model}", f"store.path={tmp_path / 'cache'}", "planner.types=[Q2_K,Q4_K,Q8_0]"]
    workspace = open_workspace(ROOT, raw)
    graph, store = workspace.graph(), workspace.store
    assert original_layout(graph, store) is None, "nothing is known before the conversion"
    for step in graph.convert().all():
        if step.outcome(store) is None:
            run_step(step, store)
    rows = fallbacks_of(original_layout(graph, store), workspace.study.planner.types)
    narrow = next(row for row in rows if row["columns"] == 320)
    assert narrow["written"] == {"Q2_K": "Q4_0", "Q4_K": "Q5_0"}
    assert 0 < narrow["share"] <= 1
    assert fallback_words(narrow).endswith("there Q2_K as Q4_0, Q4_K as Q5_0")
