"""An entry must hold what its stage declares: anything else is a miss and is made again."""

import json

import pytest

from sintra.build.step import Step
from sintra.core import plugins
from sintra.core.artifact import Artifact, File
from sintra.core.canonical import canonical, sha256
from sintra.store.remote.shared_entries import RemoteDataError, parse_shared_entry
from sintra.store.store import Store


def publish(store, step, *names):
    """An entry of a step with these files; returns what counts."""
    folder = store.folder("tmp") / sha256(canonical(names))
    folder.mkdir()
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return store.publish(step.key(store), store.put_tree(folder), {}, step.accepts)


@pytest.mark.parametrize(
    ("stage", "short", "whole"),
    [
        ("quality", [], ["kld.npy", "measurements.json"]),
        ("quality", ["kld.npy"], ["kld.npy", "measurements.json"]),
        ("convert", ["model.gguf"], ["layout.json", "model.gguf"]),
        ("gptq", ["layout.json", "model"], ["layout.json", "model/config.json"]),
    ],
)
def test_an_entry_without_its_files_is_a_miss_and_is_replaced(tmp_path, stage, short, whole):
    store, step = Store(tmp_path), Step(stage, "x", {"seed": 0})
    publish(store, step, *short)
    assert Step(stage, "x", {"seed": 0}).outcome(Store(tmp_path)) is None
    made = publish(store, step, *whole)
    assert [f.path for f in made.files] == whole
    assert Step(stage, "x", {"seed": 0}).outcome(Store(tmp_path)) == made


def test_a_source_is_what_was_pinned(tmp_path):
    store, right = Store(tmp_path), Artifact((File("text.txt", 8, sha256("text.txt")),))
    pinned = {"kind": "file", "digest": right.digest}
    publish(store, Step("fetch", "text", pinned), "other.txt")
    assert Step("fetch", "text", pinned).outcome(store) is None
    assert publish(store, Step("fetch", "text", pinned), "text.txt") == right
    hub = plugins.load_step("fetch").accepts
    files = [File(n, 1, "0" * 64) for n in ("config.json", "model.safetensors", "modeling_x.py")]
    commit = {"kind": "hub", "digest": "c" * 40}
    assert hub(commit, Artifact(tuple(files[:2])))
    assert not hub(commit, Artifact(tuple(files)))
    assert hub(commit | {"code": True}, Artifact(tuple(files)))
    assert not hub(commit, Artifact(()))


def test_every_stage_declares_what_it_makes():
    names = plugins.own_names(*plugins.STEP_GROUPS)
    stages = [plugins.load_step(name) for name in names]
    assert [s.name for s in stages if not s.declared and s.check is None] == []


def test_others_entries_are_held_to_it_too():
    action = {"schema": 1, "stage": "quality", "params": {"seed": 0}, "inputs": {}}
    key = sha256(canonical(action))
    rows = [
        {"path": name, "size": 1, "sha256": "a" * 64} for name in ("kld.npy", "measurements.json")
    ]
    entry = {"key": key, "action": action, "step": "quality:x", "files": rows}
    assert len(parse_shared_entry(json.dumps(entry).encode(), key)["files"]) == 2
    for wrong in ([], rows[:1]):
        with pytest.raises(RemoteDataError, match="not those of the stage quality"):
            parse_shared_entry(json.dumps(entry | {"files": wrong}).encode(), key)
