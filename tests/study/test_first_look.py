"""A study of a real model begins with stock presets; that of a tiny one with its planner."""

import json
import struct

import pytest
from conftest import ROOT

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.study.first_look import PRESETS, is_first_look
from sintra.study.rounds import next_round, planners_rounds
from sintra.study.workspace import open_workspace


def make_folder(folder, rows):
    """A Llama by its headers: the weights are a hole in the file."""
    folder.mkdir()
    header = {
        "model.layers.0.mlp.up_proj.weight": {
            "dtype": "F16",
            "shape": [rows, 1024],
            "data_offsets": [0, rows * 2048],
        }
    }
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + rows * 2048)
    config = json.loads((ROOT / "models" / "fable" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / name).write_bytes((ROOT / "models" / "fable" / name).read_bytes())
    return folder


def first_round(tmp_path, rows, *more):
    folder = make_folder(tmp_path / "m", rows)
    raw = ["hardware=laptop", f"model={folder}", "goal.max_kld=0.1", *more]
    workspace = open_workspace(ROOT, [*raw, f"store.path={tmp_path / 'cache'}"])
    return next_round(workspace.graph(), workspace.store, [])


def test_a_real_model_gets_one(tmp_path):
    planned = first_round(tmp_path, 60_000)
    assert [(p.recipe, p.level) for p in planned.proposals] == [
        (Recipe(preset), "search") for preset in PRESETS
    ]
    assert is_first_look(planned.proposals)
    assert planners_rounds([planned]) == []


@pytest.mark.parametrize(("rows", "more"), [(40_000, ()), (60_000, ("planner=ladder",))])
def test_others_begin_with_their_planner(tmp_path, rows, more):
    planned = first_round(tmp_path, rows, *more)
    assert planned.proposals
    assert not is_first_look(planned.proposals)
    assert planners_rounds([planned]) == [planned]


def test_finalists_are_no_first_look():
    assert not is_first_look([Proposal(Recipe("Q8_0"), "why", "study", "report")])
    assert not is_first_look([])
