"""A shared folder in which somebody has put other things than files: the rest serves."""

import pytest
from faults.kinds import KINDS, limit, put

from sintra.core.canonical import canonical, sha256
from sintra.store.remote.address import Address
from sintra.store.remote.objects import blob_name, entry_name
from sintra.store.remote.shared import SharedStore
from sintra.store.store import Store

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def no_hang():
    with limit(60):
        yield


def key_of(number):
    return sha256(canonical(action(number)))


def action(number):
    return {"schema": 1, "stage": "made", "params": {"number": number}, "inputs": {}}


def publish(root, number):
    store = Store(root)
    folder = store.folder("tmp") / f"{number}"
    folder.mkdir(exist_ok=True)
    (folder / "f.txt").write_text(f"text {number}")
    about = {"step": f"made:{number}", "stage": "made", "action": action(number)}
    return store.publish(key_of(number), store.put_tree(folder), about)


@pytest.fixture
def machines(tmp_path):
    """Two results, given to a shared folder; a function that opens it anew."""
    said = []

    def opened():
        return SharedStore(Address(f"file://{tmp_path}/shared", True), said.append)

    made = [publish(tmp_path / "one", number) for number in (0, 1)]
    for number in (0, 1):
        assert opened().push(Store(tmp_path / "one"), key_of(number)) == "pushed"
    return tmp_path, opened, made, said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["entry", "blob"])
def test_another_kind_is_refused_and_replaced(machines, kind, what):
    root, opened, made, said = machines
    name = entry_name(key_of(0)) if what == "entry" else blob_name(made[0].files[0].sha256)
    put(root / "shared" / name, kind)
    shared, two = opened(), Store(root / "two")
    assert shared.pull(two, key_of(0)) is None
    assert shared.pull(two, key_of(1)) == made[1], "the rest serves"
    assert all("refused" in line for line in said)
    assert publish(root / "two", 0) == made[0]
    assert shared.push(two, key_of(0)) in ("pushed", "there")
    assert opened().pull(Store(root / "three"), key_of(0)) == made[0]
    assert not shared.unusable_because


def test_odd_names_are_passed_over(machines):
    root, opened, made, _ = machines
    ac = root / "shared" / "ac"
    for name in ("\udcff\udcfe", "a b", "\x1b[2J", "%2e%2e", "zz", "..x"):
        (ac / name).mkdir()
        for inner in ("\udcff.json", "x" * 64 + ".json", "\n", "a\\b"):
            (ac / name / inner).touch()
    (ac / "file").write_text("x")
    put(ac / "loop", "looped link")
    put(ac / "fifo", "FIFO")
    assert sorted(opened().objects.list_keys()) == sorted(key_of(n) for n in (0, 1))
    assert opened().pull(Store(root / "two"), key_of(1)) == made[1]


@pytest.mark.parametrize("kind", ["FIFO", "looped link", "a text"])
@pytest.mark.parametrize("name", ["ac", "cas"])
def test_a_folder_that_is_none(machines, name, kind):
    root, opened, made, _ = machines
    (root / "shared" / name).rename(root / "elsewhere")
    put(root / "shared" / name, kind)
    assert opened().pull(Store(root / "two"), key_of(0)) is None
    assert opened().push(Store(root / "one"), key_of(0)) in ("pushed", "there")
    assert opened().pull(Store(root / "three"), key_of(0)) == made[0]
