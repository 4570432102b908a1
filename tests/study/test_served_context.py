"""The context that a model is served with decides its memory; the texts' window does not."""

import json
import shutil
from dataclasses import replace

import pytest
from configs import LLAMA, write
from conftest import ROOT

from sintra.cli.commands import devices
from sintra.config.study import served_context, study_id
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.hardware.estimate.estimate import Shape, compute_bytes
from sintra.planning.bounds import lower_bounds
from sintra.study.workspace import open_workspace


@pytest.fixture(scope="module")
def long(tiny, tmp_path_factory):
    """The tiny model, whose config.json says that it was trained for 16384 tokens."""
    folder = tmp_path_factory.mktemp("long") / "tiny"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16384}))
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def open_study(model, *options):
        return open_workspace(ROOT, [f"store.path={cache}", f"model={model}", *options])

    return open_study


@pytest.fixture(scope="module")
def workspace(opened, long):
    return opened(long, "probe.context=256", "planner.max_dropped=0")


def served(workspace, context):
    return replace(workspace, study=replace(workspace.study, context=context))


def test_it_is_the_models_own_and_at_most_4096():
    assert [served_context(None, own, "m") for own in (0, 512, 4096, 131072)] == [
        4096,
        512,
        4096,
        4096,
    ]
    assert [served_context(8192, own, "m") for own in (0, 131072)] == [8192, 8192]
    with pytest.raises(UserError, match=r"goal.context=513 is more than the 512 tokens that m"):
        served_context(513, 512, "m")


def test_the_models_own_is_read_from_its_files(opened, workspace, tiny, tmp_path):
    assert workspace.study.context == 4096
    write(tmp_path / "mine.gguf", LLAMA)
    assert opened(tmp_path / "mine.gguf").study.context == 512
    with pytest.raises(UserError, match=r"goal.context=600 is more than the 512 tokens that tiny"):
        opened(tiny, "goal.context=600")


def test_memory_follows_it_and_not_the_window(workspace):
    """2 bytes x 2 (keys, values) x 2 blocks x 1 head x 128 elements for each token."""
    pin = workspace.pinned()
    bounds = {n: lower_bounds(served(workspace, n).study, pin) for n in (512, 4096)}
    more = bounds[4096]["device_ram_bytes"] - bounds[512]["device_ram_bytes"]
    assert more == 2 * 2 * 2 * 128 * (4096 - 512)
    graph = workspace.graph()
    assert graph.variant(Recipe("Q8_0"), "report").memory.params["context"] == 4096
    assert graph.baseline("search").params["context"] == 256


def test_studies_at_other_contexts_are_others(workspace):
    def name(context):
        return study_id(served(workspace, context).study, "", "0", [])

    assert len({name(256), name(512), name(4096)}) == 3


def test_an_estimate_is_made_at_it(long, capsys):
    def ram(*options):
        devices.show(ROOT, [f"model={long}", *options], False, "Q8_0", "json")
        row = next(r for r in json.loads(capsys.readouterr().out) if r["type"] == "Q8_0")
        return row["context"], row["device_ram_bytes"]["value"]

    (short, less), (usual, more) = ram("goal.context=512"), ram()
    assert (short, usual) == (512, 4096)
    shape = Shape(0, 0, True, 0, 2, 256, 2, 1, 128, 2048, inner=512)
    beside = compute_bytes(shape, 4096) - compute_bytes(shape, 512)
    assert more - less == 2 * 2 * 2 * 128 * (4096 - 512) + beside
