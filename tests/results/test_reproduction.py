"""`doit reproduce`: a result made again in an empty cache."""

import json

from sintra.results.reproduction import Reproduction


def test_the_same_bytes_come_out(studied):
    """Everything but the converter is built again; nothing is left behind."""
    done = studied.doit("reproduce")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "latest: reproduced"
    assert "the same bytes (SHA-256 " in lines[1]
    kld = next(m for m in studied.result()["winner"]["measurements"] if m["metric"] == "kld_mean")
    assert lines[2].split()[0] == "KLD"
    assert lines[2].split()[1] == lines[2].split()[3], (lines[2], kld)
    assert lines[3].split() == ["versions", "the", "same"]
    built = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("build ")]
    assert {"fetch", "convert", "quantize", "baseline", "quality"} <= {
        name.partition(":")[0] for name in built
    }
    assert not [name for name in built if name.startswith("toolchain")]
    assert not (studied.root / "cache" / "reproduced" / studied.result()["study"]).exists()


def test_other_sources_are_refused(studied):
    """A manifest that names another text: one line, and nothing is built."""
    manifest = studied.root / "outputs" / "latest" / "manifest.json"
    whole = manifest.read_text()
    changed = json.loads(whole)
    changed["texts"]["report"] = "0" * 64
    try:
        manifest.unlink()
        manifest.write_text(json.dumps(changed))
        done = studied.doit("reproduce")
    finally:
        manifest.unlink()
        manifest.write_text(whole)
    assert done.returncode == 2
    assert "the report text of outputs/" in done.stderr
    assert "isn't what it was" in done.stderr
    assert "build " not in done.stderr


def test_no_such_result(studied):
    done = studied.doit("reproduce", "nowhere")
    assert done.returncode == 2
    assert "outputs/nowhere holds no result" in done.stderr


def test_what_counts_as_reproduced():
    same = Reproduction("a", "a", None, None, 0.0, ())
    assert same.confirmed
    near = Reproduction("a", "b", 0.0200, 0.0209, 0.0005, ("torch 1 -> 2",))
    assert near.confirmed
    assert "other bytes" in near.lines()[0]
    assert near.lines()[2].endswith("torch 1 -> 2")
    assert not Reproduction("a", "b", 0.0200, 0.0211, 0.0005, ()).confirmed
    assert not Reproduction("a", "b", None, None, 0.0, ()).confirmed
