"""outputs/latest moves to sound results only; what is broken is said, and never loaded where its
bytes are wrong.
"""

import hashlib
import json
import os
import shutil

import pytest
from conftest import QUICK, make_project

from sintra.results.validation import problem, validate
from sintra.store.store import Store

ARGS = ("optimize", "hardware=jetson_nano", *QUICK)


@pytest.fixture(scope="module")
def place(tmp_path_factory, converted, tiny):
    """Two studies of one model, the second one latest."""
    made = make_project(tmp_path_factory.mktemp("two") / "project", converted)
    for goal in ("goal.max_kld=9", "goal.max_kld=8"):
        done = made.doit(*ARGS, f"model={tiny}", goal)
        assert done.returncode == 0, done.stderr
    return made


def studies(place):
    """(first, second) folders."""
    latest = (place.root / "outputs" / "latest").resolve()
    return next(
        p.parent
        for p in place.root.glob("outputs/*/result.json")
        if p.parent.resolve() != latest and not p.parent.is_symlink()
    ), latest


def replaced(path, data):
    """Other bytes under a name that may be a link into the cache."""
    path.unlink()
    path.write_bytes(data)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def signed(folder, data):
    """A model of other bytes, with manifest and result saying so: what is wrong is in the model
    alone.
    """
    replaced(folder / "model.gguf", data)
    digest = hashlib.sha256(data).hexdigest()
    result = json.loads((folder / "result.json").read_text())
    result["winner"]["artifact"]["sha256"] = digest
    (folder / "result.json").write_text(json.dumps(result))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.gguf"] = digest
    manifest["files"]["result.json"] = hashlib.sha256(
        (folder / "result.json").read_bytes()
    ).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_result(place):
    done = place.doit("validate")
    assert done.returncode == 0, done.stderr
    assert ": sound\n" in done.stdout
    assert "files    4 files have their SHA-256" in done.stdout
    assert "answers  llama-cpp-python 0.3.36: " in done.stdout
    gone = place.doit("validate", "gone")
    assert (gone.returncode, "outputs/gone holds no result" in gone.stderr) == (2, True)


def test_a_broken_file_is_found_and_delivered_again(place, tiny):
    first, second = studies(place)
    model = first / "model.gguf"
    good = model.read_bytes()
    replaced(model, flipped(model))
    try:
        done = place.doit("validate", first.name, "latest")
        assert done.returncode == 1
        assert f"{first.name}: not sound" in done.stdout
        assert "model.gguf has the SHA-256" in done.stdout
        assert f"{second.name}: sound" in done.stdout
        back = place.doit("rollback")
        assert back.returncode == 2
        assert f"skipped {first.name}: files: model.gguf" in back.stderr
        assert "no earlier good result" in back.stderr
        assert os.readlink(place.root / "outputs" / "latest") == second.name
        again = place.doit(*ARGS, f"model={tiny}", "goal.max_kld=9")
        assert again.returncode == 0, again.stderr
        assert place.built(again) == []
        assert model.read_bytes() == good, "all is cached and of the right size: its digest tells"
    finally:
        replaced(model, good)
    assert os.readlink(place.root / "outputs" / "latest") == first.name
    assert place.doit("rollback").returncode == 0
    assert os.readlink(place.root / "outputs" / "latest") == second.name


def test_a_model_that_does_not_load_or_answer(place, tmp_path):
    from gguf import GGUFReader

    store, (_, second) = Store(place.root / "cache"), studies(place)
    shutil.copytree(second, tmp_path / "study", copy_function=shutil.copyfile)
    folder = tmp_path / "study"
    assert problem(validate(folder, store)) == ""
    good = (folder / "model.gguf").read_bytes()
    signed(folder, good[: len(good) // 2])
    assert "answers: Malformed: model.gguf is not a sound GGUF" in problem(validate(folder, store))
    last = next(t for t in GGUFReader(second / "model.gguf").tensors if t.name == "output.weight")
    poisoned = bytearray(good)
    poisoned[last.data_offset : last.data_offset + last.n_bytes] = b"\xff" * int(
        last.n_bytes
    )  # every scale is not a number
    signed(folder, bytes(poisoned))
    assert "answers: Infeasible: the model's logits are not finite" in problem(
        validate(folder, store)
    )
    signed(folder, good)
    assert problem(validate(folder, store)) == ""
    (folder / "rounds.json").unlink()
    assert problem(validate(folder, store)) == "files: rounds.json is missing"
    (folder / "manifest.json").write_text("{")
    assert "can't be read" in problem(validate(folder, store))


def test_going_back_and_forth_reads_no_model(place, tiny):
    """What was found sound is not read again: its access would be an open of model.gguf, which is
    gone from under its name.
    """
    first, second = studies(place)
    for goal, folder in (("goal.max_kld=9", first), ("goal.max_kld=8", second)):
        assert place.doit(*ARGS, f"model={tiny}", goal).returncode == 0
        assert os.readlink(place.root / "outputs" / "latest") == folder.name
    memo = place.root / "cache" / "meta" / "validated" / f"{second.name}.json"
    before = memo.stat().st_mtime_ns
    for goal in ("goal.max_kld=9", "goal.max_kld=8"):
        assert place.doit(*ARGS, f"model={tiny}", goal).returncode == 0
    assert memo.stat().st_mtime_ns == before, "validated once"
