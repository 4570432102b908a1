"""`doit gc` beside a worker that publishes: finished work stays, however the two interleave."""

import os
import threading
import time

import pytest

from sintra.core.artifact import Artifact
from sintra.store import maintenance
from sintra.store.maintenance import delete_unneeded, verify_blobs
from sintra.store.store import Store

OLD, NEW = "a" * 64, "b" * 64
HOURS = 7200.0


def laid(store, key, text="bytes of a model"):
    """A worker's folder with a finished file."""
    folder = store.folder("tmp") / f"{key}.worker"
    folder.mkdir(exist_ok=True)
    (folder / "model.gguf").write_text(text)
    return folder


def age(path):
    then = time.time() - HOURS
    os.utime(path, (then, then))


@pytest.fixture
def store(tmp_path):
    """A cache with a blob and an entry from long ago that no study needs."""
    store = Store(tmp_path)
    made = store.publish(OLD, store.put_tree(laid(store, OLD)), {"step": "s:old"})
    age(store.blob_path(made.files[0].sha256))
    age(store.entry_path(OLD))
    return store


def is_whole(store, key, made):
    return Store(store.root).lookup(key) == made and not list(verify_blobs(Store(store.root)))


def test_a_blob_that_is_used_again_stays(store):
    """The worker's first look, gc, the entry."""
    folder = laid(store, NEW)
    made = store.put_tree(folder)
    deletion = delete_unneeded(Store(store.root), set())
    assert (deletion.entries, deletion.blobs) == (1, 0)
    assert store.publish(NEW, made, {}, folder=folder) == made
    assert is_whole(store, NEW, made)


def test_a_blob_that_gc_deletes_after_the_look_is_put_again(store):
    folder = laid(store, NEW)
    made = store.put_tree(folder)
    blob = store.blob_path(made.files[0].sha256)
    blob.unlink()  # gc had looked before
    assert store.publish(NEW, made, {}, folder=folder) == made
    assert is_whole(store, NEW, made)


def test_what_becomes_young_between_gcs_look_and_its_deletion_is_put_back(store):
    folder, moment = laid(store, NEW), time.time() - maintenance.GRACE_S
    blob = store.blob_path(store.lookup(OLD).files[0].sha256)
    assert maintenance._is_older(blob, moment), "gc's look"
    made = store.put_tree(folder)
    assert not maintenance._delete_if_old(store, blob, moment)
    assert store.publish(NEW, made, {}, folder=folder) == made
    assert is_whole(store, NEW, made)
    assert maintenance._is_older(store.entry_path(OLD), moment)
    again = store.publish(OLD, made, {}, folder=folder)
    assert not maintenance._delete_if_old(store, store.entry_path(OLD), moment)
    assert is_whole(store, OLD, again)
    assert [p.name for p in store.folder("tmp").glob("gc*")] == []


def test_a_file_that_took_long_to_write_is_young_when_it_is_published(tmp_path):
    store = Store(tmp_path)
    folder = laid(store, NEW)
    age(folder / "model.gguf")
    made = store.put_tree(folder)
    assert delete_unneeded(Store(tmp_path), set()).blobs == 0
    assert store.publish(NEW, made, {}) == made


def test_side_by_side(tmp_path):
    """A gc without end beside publications of what it wants to delete."""
    stop, store = threading.Event(), Store(tmp_path)

    def collect():
        while not stop.is_set():
            delete_unneeded(Store(tmp_path), set())

    beside = threading.Thread(target=collect)
    beside.start()
    try:
        for number in range(60):
            key = f"{number % 2}" * 64
            folder = laid(store, key, f"text {number % 3}")
            made = Store(tmp_path).publish(key, store.put_tree(folder), {}, folder=folder)
            assert isinstance(made, Artifact)
            assert Store(tmp_path).lookup(key) == made
            for file in made.files:  # so that the next round finds it old again
                age(store.blob_path(file.sha256))
            age(store.entry_path(key))
    finally:
        stop.set()
        beside.join()
