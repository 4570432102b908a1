"""The store: atomic, first writer wins, what is read is what was written."""

import json
import multiprocessing
import uuid

import pytest

from sintra.core.artifact import Artifact, Failure, File
from sintra.store import maintenance
from sintra.store.files import link_or_copy
from sintra.store.maintenance import delete_unneeded, verify_blobs
from sintra.store.store import Store
from sintra.study.pinning import Digests

KEY = "a" * 64


def publish(root, key, text):
    store = Store(root)
    folder = store.folder("tmp") / f"{key}.{uuid.uuid4().hex}"
    folder.mkdir()
    (folder / "f.txt").write_text(text)
    return store.publish(key, store.put_tree(folder), {"step": "s:x"})


def test_round_trip(tmp_path):
    made = publish(tmp_path, KEY, "hello")
    store = Store(tmp_path)
    assert store.lookup(KEY) == made
    blob = store.blob_path(made.files[0].sha256)
    assert blob.read_text() == "hello"
    assert blob.stat().st_mode & 0o222 == 0


def test_wrong_size_is_a_miss_and_can_be_published_again(tmp_path):
    made = publish(tmp_path, KEY, "hello")
    blob = Store(tmp_path).blob_path(made.files[0].sha256)
    blob.chmod(0o644)
    blob.write_text("hell")
    assert Store(tmp_path).lookup(KEY) is None
    publish(tmp_path, KEY, "hello")
    assert Store(tmp_path).lookup(KEY) == made


def test_torn_entry_is_a_miss(tmp_path):
    publish(tmp_path, KEY, "hello")
    Store(tmp_path).entry_path(KEY).write_text('{"files": [')
    assert Store(tmp_path).lookup(KEY) is None
    publish(tmp_path, KEY, "hello")
    assert Store(tmp_path).lookup(KEY) is not None


def test_first_writer_wins(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(publish, [(tmp_path, KEY, f"text {i}") for i in range(12)])
    assert len({f.digest for f in found}) == 1
    assert Store(tmp_path).lookup(KEY) == found[0]


def test_failures_are_results(tmp_path):
    store = Store(tmp_path)
    store.publish(KEY, Failure("unsupported", "no"), {})
    assert Store(tmp_path).lookup(KEY) == Failure("unsupported", "no")


def test_verify_finds_one_flipped_byte(tmp_path):
    made = publish(tmp_path, KEY, "hello")
    store = Store(tmp_path)
    assert list(verify_blobs(store)) == []
    blob = store.blob_path(made.files[0].sha256)
    blob.chmod(0o644)
    blob.write_text("hellp")
    assert store.lookup(KEY) is not None, "the size is right, so only verify can tell"
    bad = list(verify_blobs(Store(tmp_path)))
    assert [(f.path, wrong, step) for f, wrong, step in bad] == [("f.txt", "damaged", "s:x")]
    assert len(list((tmp_path / "quarantine").iterdir())) == 1
    assert Store(tmp_path).lookup(KEY) is None


def test_gc_keeps_what_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "GRACE_S", -5.0)
    publish(tmp_path, KEY, "keep")
    publish(tmp_path, "b" * 64, "drop")
    store = Store(tmp_path)
    assert delete_unneeded(store, {KEY}, dry_run=True) == (1, 1, 4)
    assert delete_unneeded(store, {KEY}) == (1, 1, 4)
    assert Store(tmp_path).lookup(KEY) is not None
    assert Store(tmp_path).lookup("b" * 64) is None


def test_gc_leaves_young_work_alone(tmp_path):
    publish(tmp_path, KEY, "at work")
    assert delete_unneeded(Store(tmp_path), set()) == (0, 0, 0)


def test_names_cannot_leave_their_folder(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="leaves its folder"):
        store.lay_out(Artifact((File("../x", 1, "0" * 64),)), tmp_path / "view")


def test_sweep_removes_only_what_nobody_works_on(tmp_path):
    store = Store(tmp_path)
    for name in (KEY, "b" * 64):
        (store.folder("tmp") / f"{name}.1").mkdir()
    with store.lock(KEY):
        Store(tmp_path).sweep_tmp()
        assert [p.name[0] for p in store.folder("tmp").iterdir()] == ["a"]


def test_digests_read_a_file_once(tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    digests = Digests(tmp_path / "d.json")
    first = digests.file(file)
    kept = json.loads((tmp_path / "d.json").read_text())
    file.chmod(
        0
    )  # a second read would fail for anybody but root; for root the memo's content shows it
    (tmp_path / "d.json").write_text(json.dumps({k: [v[0], "0" * 64] for k, v in kept.items()}))
    file.chmod(0o644)
    assert first[1] != "0" * 64
    fresh = Digests(tmp_path / "d.json")
    assert fresh.file(file) == first, "chmod changed the ctime, so the memo doesn't hold"
    assert Digests(tmp_path / "d.json").file(file) == first


def test_a_link_replaces_what_is_there_and_may_be_its_own_source(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    link_or_copy(one, two)
    link_or_copy(one, two)
    assert two.read_text() == one.read_text() == "a"
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}
