"""What of the cache goes, what it is full of, and whether it is sound."""

import json
import os
import time
import uuid

import pytest

from sintra.build.run_state import Run
from sintra.cli.commands.registry import command_tasks
from sintra.core.artifact import Artifact
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError
from sintra.store import maintenance
from sintra.store.store import Store
from sintra.store.usage import measure_usage, print_usage

DAY = 86400


def step(store, stage, label, files, inputs=None, number=0):
    """Publish a step; returns its key and what it made."""
    action = {
        "stage": stage,
        "params": {"number": number, "label": label},
        "inputs": {r: a.digest for r, a in (inputs or {}).items()},
    }
    key = sha256(canonical(action))
    folder = store.folder("tmp") / f"{key}.{uuid.uuid4().hex}"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    made = store.publish(
        key, store.put_tree(folder), {"step": f"{stage}:{label}", "stage": stage, "action": action}
    )
    assert isinstance(made, Artifact)
    return key, made


def study(store, name, keys, days, root=None):
    """Record a study that was last run so many days ago; with root, it lies in outputs/ too."""
    path = store.folder("studies") / name / "keys.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(sorted(keys)))
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    if root:
        out = root / "outputs" / name
        out.mkdir(parents=True)
        (out / "result.json").write_text("{}")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two models of 1 kB each with a variant of each; four studies of different ages."""
    monkeypatch.setattr(maintenance, "GRACE_S", -5.0)
    store = Store(tmp_path / "cache")
    keys = {}
    text, words = step(store, "fetch", "text-search", {"text.txt": "t" * 10})
    for number, name in enumerate(("one", "two")):
        config = {
            "config.json": json.dumps({"of": name}),
            "weights": name[0] * 1000,
            "shared": "s" * 100,
        }
        source, model = step(store, "fetch", name, config, number=number)
        made, _ = step(
            store, "quantize", f"{name}-Q4", {"model.gguf": name[1] * 500}, {"model": model}, number
        )
        scored, _ = step(
            store,
            "quality",
            f"{name}-Q4",
            {"report.json": name},
            {"gguf": _, "text": words},
            number,
        )
        keys[name] = {text, source, made, scored}
    study(store, "delivered", keys["one"], 90, tmp_path)
    study(store, "old", keys["two"], 40)
    keys["extra"] = {step(store, "quantize", "two-Q8", {"model.gguf": "8" * 700}, number=9)[0]}
    study(store, "new", keys["extra"], 1)
    return tmp_path, store, keys


def there(store, keys):
    return all(Store(store.root).lookup(k) for k in keys)


def run(place, name, *options):
    """A command as doit runs it."""
    root, store, _ = place
    tasks = command_tasks(root, [f"store.path={store.root}"], None, Run())
    task = next(t for t in tasks if t.name == name)
    task.init_options(list(options))
    return task.actions[0].execute()


def test_gc_keeps_every_recorded_study(place, capsys):
    _, store, keys = place
    step(store, "quantize", "nobody's", {"x": "n" * 300}, number=77)
    assert run(place, "gc") is None
    assert "deleted 1 entries and 1 blobs" in capsys.readouterr().out
    assert all(there(store, k) for k in keys.values())


def test_gc_by_age(place, capsys):
    _, store, keys = place
    run(place, "gc", "--older", "30d", "--dry-run")
    assert "would drop old, last run 40 days ago\nwould delete 3 entries" in capsys.readouterr().out
    assert there(store, keys["two"])
    run(place, "gc", "--older", "30d")
    assert "dropped old" in capsys.readouterr().out
    assert there(store, keys["one"]), "it is older, but it lies in outputs/"
    assert there(store, keys["extra"])
    assert not any(there(store, [k]) for k in keys["two"] - keys["one"])
    assert maintenance.verify_cache(place[0], store, True)


def test_gc_by_size_lets_the_longest_unused_go_first(place, capsys):
    _, store, keys = place
    run(place, "gc", "--max-size", "2500")
    assert "dropped old" in capsys.readouterr().out
    assert there(store, keys["extra"])
    run(place, "gc", "--max-size", "1kB")
    told = capsys.readouterr().out
    assert "dropped new" in told
    assert "stay: pinned studies and those in outputs/" in told
    assert there(store, keys["one"])


def test_a_pinned_study_stays(place, capsys):
    _, store, keys = place
    run(place, "gc", "--pin", "old")
    run(place, "gc", "--older", "1h")
    assert there(store, keys["two"])
    assert not there(store, keys["extra"])
    run(place, "gc", "--unpin", "old")
    run(place, "gc", "--older", "1h")
    assert not there(store, keys["two"])
    assert "old is pinned" in capsys.readouterr().out
    assert "did you mean 'delivered'" in str(run(place, "gc", "--pin", "deliverd").message)


@pytest.mark.parametrize(
    ("text", "bytes"), [("500M", 5e8), ("20G", 2e10), ("4GiB", 2**32), ("17", 17), ("1.5kB", 1500)]
)
def test_sizes(text, bytes):
    assert maintenance.parse_size(text) == bytes


@pytest.mark.parametrize("text", ["", "x", "4X", "-3G", "i", "4i"])
def test_wrong_sizes_and_ages(text):
    with pytest.raises(UserError, match="--max-size="):
        maintenance.parse_size(text)
    with pytest.raises(UserError, match="--older="):
        maintenance.parse_age(text)


def flip(path):
    """Change one byte."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_verify_reads_only_what_was_written_to(place, capsys, monkeypatch):
    root, store, keys = place
    assert maintenance.verify_cache(root, store, False)
    read = []
    real = maintenance.hash_file
    monkeypatch.setattr(
        "sintra.store.maintenance.hash_file", lambda path: read.append(path.name) or real(path)
    )
    assert maintenance.verify_cache(root, store, False)
    assert read == []
    made = store.lookup(next(k for k in keys["extra"])).files[0]
    flip(store.blob_path(made.sha256))
    assert not maintenance.verify_cache(root, store, False)
    assert read == [made.sha256]
    told = capsys.readouterr().out
    assert f"damaged: model.gguf of quantize:two-Q8 ({made.sha256[:12]})" in told
    assert "to be built again: quantize:two-Q8" in told
    assert not there(store, keys["extra"])
    assert not maintenance.verify_cache(root, store, False), "it is missing until it has been built"


def test_verify_full_finds_what_a_disk_has_lost(place, capsys):
    root, store, keys = place
    assert maintenance.verify_cache(root, store, False)
    made = store.lookup(next(k for k in keys["extra"])).files[0]
    blob = store.blob_path(made.sha256)
    known = json.loads((store.root / "meta" / "verified.json").read_text())
    flip(blob)  # as a bad sector would: the file's times say nothing
    known[made.sha256] = [*known[made.sha256][:3], blob.stat().st_mtime_ns, blob.stat().st_ctime_ns]
    (store.root / "meta" / "verified.json").write_text(json.dumps(known))
    assert maintenance.verify_cache(root, store, False)
    assert not maintenance.verify_cache(root, store, True)
    assert "damaged: model.gguf of quantize:two-Q8" in capsys.readouterr().out


def test_verify_full_looks_at_entries_strays_and_outputs(place, capsys):
    root, store, keys = place
    entry = store.entry_path(next(iter(keys["extra"])))
    data = {
        k: v for k, v in json.loads(entry.read_text()).items() if k != "sum"
    }  # forged, not rotten
    entry.write_text(json.dumps(data | {"action": data["action"] | {"params": {}}}))
    (store.root / "ac" / "zz").mkdir()
    (store.root / "ac" / "zz" / "torn.json").write_text('{"files": [')
    stray = store.folder("tmp") / "stray"
    stray.write_text("nobody's")
    _, digest = store.put_file(stray)
    flip(store.blob_path(digest))
    out = root / "outputs" / "delivered"
    (out / "model.gguf").write_text("good")
    (out / "manifest.json").write_text(
        json.dumps({"files": {"model.gguf": sha256("good"), "gone": "0" * 64}})
    )
    assert not maintenance.verify_cache(root, store, True)
    told = capsys.readouterr().out
    assert "the entry of quantize:two-Q8" in told
    assert "the entry of torn" in told
    assert f"a blob that no step needs ({digest[:12]})" in told
    assert "outputs/delivered/gone" in told
    assert "outputs/delivered/model.gguf" not in told
    assert len(list((store.root / "quarantine").iterdir())) == 3
    (out / "manifest.json").unlink()
    assert maintenance.verify_cache(root, store, True)


def test_du(place, capsys):
    root, store, _ = place
    step(store, "quantize", "one-copy", {"model.gguf": "n" * 500}, number=5)  # the bytes of one-Q4
    stray = store.folder("tmp") / "stray"
    stray.write_text("u" * 33)
    store.put_file(stray)
    found = measure_usage(store)
    models = {r["name"]: r for r in found["models"]}
    assert set(models) == {"one", "two", "(no model)"}
    config = len(json.dumps({"of": "one"}))
    assert models["one"]["steps"] == 3
    assert models["one"]["bytes"] == 1000 + 100 + config + 500 + 3
    assert models["one"]["unique"] == 1000 + config + 3, (
        "the shared file and the copied variant are others' too"
    )
    stages = {r["name"]: r for r in found["stages"]}
    assert stages["quantize"]["bytes"] == 500 + 500 + 700
    assert stages["quality"] == {"name": "quality", "steps": 2, "bytes": 6, "unique": 6}
    assert found["unnamed"] == 33
    assert found["bytes"] == sum(p.stat().st_size for p in (store.root / "cas").glob("*/*"))
    assert run(place, "du") is None
    assert "unique MB" in capsys.readouterr().out
    print_usage(store, "json")
    assert json.loads(capsys.readouterr().out)["models"] == found["models"]
    with pytest.raises(UserError, match="no cache"):
        print_usage(Store(root / "nowhere"), "text")
