"""What is run or installed comes from a shared store only where its entries carry an HMAC."""

import json
from types import SimpleNamespace

import pytest

from sintra.build.step import Step
from sintra.core.artifact import PERMISSION_NAME
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError
from sintra.formats.runtime.environments import checked_lock
from sintra.stages.converter import CONVERTERS, check_converter
from sintra.stages.tools import PINS
from sintra.store.remote.address import Address
from sintra.store.remote.shared import SharedStore
from sintra.store.remote.shared_entries import RemoteDataError, parse_shared_entry
from sintra.store.store import Store
from sintra.study import sharing

KEY = "a key of all machines"
VERSION = next(iter(PINS))


def toolchain_step():
    """The step that fetches the converter."""
    return Step("toolchain", "llama.cpp", {"version": VERSION, "sha256": PINS[VERSION]})


def publish(store, step, **files):
    """What a step is said to have made."""
    folder = store.folder("tmp") / step.stage
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    about = {"step": step.name, "stage": step.stage, "action": step.action(store)}
    return store.publish(step.key(store), store.put_tree(folder), about)


def shared(folder, said=None):
    return SharedStore(Address(f"file://{folder}", True), (said if said is not None else []).append)


@pytest.fixture
def lock():
    """A step whose artifact is what pip is told."""
    return Step("environment", "gptq", {"name": "gptq"})


def test_a_lock_comes_from_a_store_with_a_key_only(tmp_path, monkeypatch, lock):
    pytest.importorskip("obstore")
    monkeypatch.setenv("SINTRA_STORE_KEY", KEY)
    one, two, key = Store(tmp_path / "one"), Store(tmp_path / "two"), lock.key(None)
    made, said = publish(one, lock, **{"lock.json": '{"gptqmodel": "7.6.0"}'}), []
    assert shared(tmp_path / "there").push(one, key, lock.name) == "pushed"
    monkeypatch.delenv("SINTRA_STORE_KEY")
    assert shared(tmp_path / "there", said).pull(two, key, lock.name) is None
    assert "it is run, and entries without an HMAC aren't believed" in said[0]
    assert shared(tmp_path / "bare").push(one, key, lock.name) == "kept"
    built = []
    assert (
        sharing.make_step(lock, two, shared(tmp_path / "there"), lambda: built.append(1)) == "built"
    )
    monkeypatch.setenv("SINTRA_STORE_KEY", KEY)
    assert shared(tmp_path / "there").pull(two, key, lock.name) == made


@pytest.mark.parametrize(
    "name", ["modeling.py", "deep/__pycache__/x.pyc", "a.pth", PERMISSION_NAME]
)
def test_no_code_comes_with_a_model(name):
    rows = [{"path": p, "size": 1, "sha256": "a" * 64} for p in ("config.json", name)]
    action = {"schema": 1, "stage": "unpack", "params": {}, "inputs": {}}
    key = sha256(canonical(action))
    entry = {"key": key, "action": action, "step": "unpack:x", "files": rows}
    with pytest.raises(RemoteDataError, match="it is run"):
        parse_shared_entry(json.dumps(entry).encode(), key)
    assert parse_shared_entry(json.dumps(entry | {"files": rows[:1]}).encode(), key)


def test_the_converter_is_the_pinned_one_at_every_use(tmp_path):
    assert set(CONVERTERS) == set(PINS)
    store = Store(tmp_path)
    files = {"convert_hf_to_gguf.py": "print(1)", "conversion/a.py": "", "gguf-py/gguf/b.py": ""}
    publish(store, toolchain_step(), **files)
    assert toolchain_step().outcome(store) is None, "a planted entry is a miss"
    with pytest.raises(UserError, match="not those that Sintra pins"):
        check_converter(store.root / "tmp" / "toolchain")


def test_the_pinned_converter_passes(toolchain, tmp_path):
    store = Store(toolchain)
    check_converter(store.lay_out(toolchain_step().outcome(store), tmp_path / "view"))
    (tmp_path / "view" / "conversion" / "more.py").write_text("print(1)")
    with pytest.raises(UserError, match="are not run"):
        check_converter(tmp_path / "view")


@pytest.mark.parametrize(
    "lock",
    [
        [],
        {"--index-url": "http://x"},
        {"x @ http://127.0.0.1/x.whl": "1"},
        {"Torch": "1"},
        {"-": "1"},
        {"a" * 101: "1"},
        {"torch": "1 --pre"},
        {"torch": "1.0; python_version"},
        {"torch": "*"},
        {"torch": "1,2"},
        {"torch": None},
        {"torch": "1" * 65},
        {"torch": "1\n2"},
        {f"p{n}": "1" for n in range(1001)},
    ],
    ids=lambda lock: str(lock)[:30],
)
def test_locks_hold_names_and_versions_only(lock):
    with pytest.raises(UserError, match="doit clean environment:gptq") as told:
        checked_lock("gptq", lock)
    assert str(told.value).isprintable()


def test_locks_of_real_environments_pass():
    from sintra.formats.runtime.environments import installed_closure

    lock = installed_closure("transformers")
    assert len(lock) > 5
    assert checked_lock("gptq", lock | {"torch": "2.13.0+cpu", "x": "1.0.post1.dev2"})


def test_what_a_stage_makes_that_is_run_is_declared():
    bare = SimpleNamespace(secret=None)
    assert not SharedStore.shares(bare, toolchain_step().plugin)
    assert SharedStore.shares(bare, Step("convert", "x", {}).plugin)


def test_pull_makes_what_is_run_here(tmp_path):
    """Without a key `doit pull` doesn't end at the converter or an environment."""
    from sintra.cli.commands.share import make_here
    from sintra.config.policy import RunPolicy
    from sintra.core.artifact import Failure
    from sintra.formats.runtime.environments import environment_params

    params = dict(environment_params("gptq", "here"))
    if params["here"]["gptqmodel"] != "none":
        pytest.skip("gptqmodel is installed here")
    step = Step("environment", "gptq", params)
    workspace = SimpleNamespace(store=Store(tmp_path), policy=RunPolicy())
    made = make_here(workspace, step)
    assert isinstance(made, Failure)
    assert made.kind == "not_installed"
