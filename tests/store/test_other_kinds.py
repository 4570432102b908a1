"""Folders, looped links, FIFOs and JSON of another shape in a cache: a miss, never a hang."""

import json
import sqlite3

import pytest
from faults.kinds import JSON_SHAPES, KINDS, limit, put

from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.hardware.boards import identity
from sintra.store import history, maintenance
from sintra.store.store import Store
from sintra.study import round_files, running
from sintra.study.pinning import Digests

KEY, OTHER = "a" * 64, "b" * 64
LIMIT_S = 60


@pytest.fixture(autouse=True)
def no_hang():
    with limit(LIMIT_S):
        yield


def publish(root, key=KEY, text="hello"):
    store = Store(root)
    folder = store.folder("tmp") / f"{key}.worker"
    folder.mkdir(exist_ok=True)
    (folder / "f.txt").write_text(text)
    about = {"step": "s:x", "stage": "s", "action": {}, "wall_s": 1.0}
    return store.publish(key, store.put_tree(folder), about, folder=folder)


@pytest.mark.parametrize("kind", [*KINDS, *JSON_SHAPES])
def test_an_entry(tmp_path, kind):
    made = publish(tmp_path)
    put(Store(tmp_path).entry_path(KEY), kind)
    assert Store(tmp_path).lookup(KEY) is None
    assert list(Store(tmp_path).read_entries()) == []
    assert publish(tmp_path) == made
    assert Store(tmp_path).lookup(KEY) == made
    put(Store(tmp_path).entry_path(KEY), kind)
    assert not maintenance.verify_cache(tmp_path, Store(tmp_path), True)
    assert publish(tmp_path) == made
    assert maintenance.verify_cache(tmp_path, Store(tmp_path), True) is False, "no action's key"


@pytest.mark.parametrize(
    ("name", "value"),
    [("wall_s", "long"), ("step", 5), ("stage", []), ("action", "x"), ("made", 1), ("files", {})],
)
def test_an_entry_of_another_shape(tmp_path, name, value):
    publish(tmp_path)
    path = Store(tmp_path).entry_path(KEY)
    data = {k: v for k, v in json.loads(path.read_text()).items() if k != "sum"}
    path.write_text(json.dumps(data | {name: value}))
    assert Store(tmp_path).lookup(KEY) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob(tmp_path, kind):
    made = publish(tmp_path)
    (file,) = made.files
    path = Store(tmp_path).blob_path(file.sha256)
    put(path, kind)
    assert Store(tmp_path).lookup(KEY) is None
    assert not Store(tmp_path).check_blob(file)
    put(path, kind)
    (damage,) = maintenance.verify_blobs(Store(tmp_path))
    assert damage.problem == "damaged"
    put(path, kind)
    assert publish(tmp_path) == made
    assert Store(tmp_path).check_blob(file)
    stray = path.with_name("0" * 64)
    put(stray, kind)
    maintenance.delete_unneeded(Store(tmp_path), {KEY})
    assert list(maintenance.verify_strays(Store(tmp_path), {file.sha256: []}))
    assert Store(tmp_path).lookup(KEY) == made


def test_an_empty_file_is_no_fifo(tmp_path):
    """A FIFO has the size 0, and so has an empty file's blob."""
    (file,) = publish(tmp_path, text="").files
    put(Store(tmp_path).blob_path(file.sha256), "FIFO")
    assert Store(tmp_path).lookup(KEY) is None
    assert publish(tmp_path, text="").files == (file,)


@pytest.mark.parametrize("kind", ["FIFO", "looped link", "a text"])
@pytest.mark.parametrize("name", ["ac", "ac/aa", "cas", "tmp", "lock", "quarantine"])
def test_a_folder_of_the_cache(tmp_path, name, kind):
    put(tmp_path / name, kind)
    with Store(tmp_path).lock(KEY):
        assert isinstance(publish(tmp_path), Artifact)
    maintenance.verify_cache(tmp_path, Store(tmp_path), True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock(tmp_path, kind):
    put(tmp_path / "lock" / KEY, kind)
    with Store(tmp_path).lock(KEY):
        Store(tmp_path).sweep_tmp()
    put(running_folder := tmp_path / "studies" / "s", "folder")
    put(running_folder / running.LOCK, kind)
    assert not running.is_running(running_folder)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_tmp(tmp_path, kind):
    put(tmp_path / "tmp" / f"{KEY}.1", kind)
    Store(tmp_path).sweep_tmp()
    assert list(Store(tmp_path).folder("tmp").iterdir()) == []


@pytest.mark.parametrize("kind", [*KINDS, *JSON_SHAPES])
def test_files_that_only_save_time(tmp_path, kind):
    file = tmp_path / "text"
    file.write_text("x")
    for name in ("digests.json", "verified.json", "sound.json"):
        put(tmp_path / "meta" / name, kind)
    first = Digests(tmp_path / "meta" / "digests.json").file(file)
    assert Digests(tmp_path / "meta" / "digests.json").file(file) == first
    publish(tmp_path)
    assert maintenance.verify_cache(tmp_path, Store(tmp_path), False)
    put(tmp_path / running.NOTE, kind)
    assert running.read_run_note(tmp_path) is None


def test_digests_of_another_shape(tmp_path):
    file, memory = tmp_path / "text", tmp_path / "digests.json"
    file.write_text("x")
    first = Digests(memory).file(file)
    for value in (5, [], [1], None, [[1], 2], {"a": 1}):
        memory.write_text(json.dumps({str(file.resolve()): value}))
        assert Digests(memory).file(file) == first


@pytest.mark.parametrize("kind", [*KINDS, *JSON_SHAPES])
def test_a_round(tmp_path, kind):
    put(tmp_path / "round-01.json", kind)
    assert round_files.read_round(tmp_path / "round-01.json") is None


def test_rounds_of_another_shape(tmp_path):
    path = tmp_path / "round-01.json"
    sound = {"round": 1, "proposals": [], "stop": "decided"}
    path.write_text(json.dumps(sound))
    assert round_files.read_round(path).is_last
    proposal = {"recipe": {"type": "Q8_0"}, "why": 5, "author": "a", "level": "build"}
    for name, value in (("round", "1"), ("stop", 5), ("proposals", 3), ("proposals", [proposal])):
        path.write_text(json.dumps(sound | {name: value}))
        assert round_files.read_round(path) is None


@pytest.mark.parametrize("kind", [*KINDS, "[]"])
@pytest.mark.parametrize("name", ["history.db", "history.db-wal", "history.lock"])
def test_the_history(tmp_path, kind, name):
    put(tmp_path / name, kind)
    row = {"study": "s", "model": "m", "hardware": "h", "goal": {"name": "g"}, "status": "pass"}
    assert history.append_result(tmp_path / "history.db", row | {"winner": None}, "d")
    assert len(history.read_results(tmp_path / "history.db")) == 1
    base = sqlite3.connect(tmp_path / "history.db")
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()


@pytest.mark.parametrize("kind", [*KINDS, *JSON_SHAPES[1:]])
def test_the_keys_of_a_study_are_never_guessed(tmp_path, kind):
    """What a study needs isn't known then: nothing is deleted."""
    put(tmp_path / "studies" / "s" / maintenance.KEYS_FILE, kind)
    with pytest.raises(UserError, match="run that study again, or delete the file"):
        maintenance.recorded_studies(tmp_path, Store(tmp_path))


@pytest.mark.parametrize("kind", [*KINDS, *JSON_SHAPES, '{"files": {"../x": "0"}}'])
def test_a_manifest(tmp_path, kind):
    put(tmp_path / "outputs" / "s" / "manifest.json", kind)
    (line,) = maintenance.verify_outputs(tmp_path)
    assert "the study's next run writes it again" in line


def test_a_board_of_another_shape(tmp_path):
    from sintra.config.options import DeviceConf

    store, device = Store(tmp_path), DeviceConf(name="ssh", host="board")
    for kind in (*KINDS, *JSON_SHAPES):
        put(identity.identity_path(store, device), kind)
        assert identity.read_identity(store, device) is None
