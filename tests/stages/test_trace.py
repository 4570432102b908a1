"""Texts that the model writes: their heads, their tokens, and going on after a kill."""

import json
from contextlib import closing

import numpy as np
import pytest
from stage_lab import Lab

from sintra.core.errors import Infeasible
from sintra.formats.gguf.chat_template import read_chat_format
from sintra.formats.runtime.llama_cpp import LlamaModel
from sintra.formats.runtime.sequences import Piece, SequencePool
from sintra.stages import trace

PARAMS = {"tokens": 300, "seed": 1, "temperature": 1.0, "chat": 0.5}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


@pytest.fixture(scope="module")
def written(lab):
    return lab.run(trace, PARAMS, gguf=lab.gguf)


def tokens_of(folder):
    return np.load(folder / "tokens.npy").tolist()


def test_documents_begin_as_the_model_is_used(lab, written):
    path = lab.gguf / "model.gguf"
    about = json.loads((written / "trace.json").read_text())
    ids = tokens_of(written)
    assert about["tokens"] == len(ids) >= PARAMS["tokens"]
    with closing(SequencePool(path, 64, 1, 2)) as pool:
        heads = trace.read_heads(pool, path)
        assert heads.plain == (pool.bos,)
        assert ids[: len(heads.plain)] == list(heads.plain)
        before, after = read_chat_format(path).turns["user"]
        assert pool.detokenize(list(heads.question), special=True).endswith(before.lstrip())
        assert after.strip() in pool.detokenize(list(heads.answer), special=True)
    assert about["conversations"] == about["documents"] // 2
    shown = (written / "text.txt").read_text()
    assert shown.count(before.strip()) >= about["conversations"]


def test_a_seed_is_a_text(lab, written):
    assert tokens_of(lab.run(trace, PARAMS, gguf=lab.gguf)) == tokens_of(written)
    other = tokens_of(lab.run(trace, PARAMS | {"seed": 2}, gguf=lab.gguf))
    assert other != tokens_of(written)


def test_more_tokens_are_the_same_text_and_more(lab, written):
    longer = tokens_of(lab.run(trace, PARAMS | {"tokens": 12_000}, gguf=lab.gguf))
    assert len(longer) >= 12_000
    assert longer[: len(tokens_of(written))] == tokens_of(written)


def test_a_killed_run_goes_on_with_the_same_text(lab):
    params = PARAMS | {"tokens": 12_000}
    whole = lab.run(trace, params, gguf=lab.gguf)
    record = json.loads(trace.record_path(lab.root / f"keep{lab.number}").read_text())
    assert len(record) > trace.SEQUENCES
    keep = lab.root / f"keep{lab.number + 1}"
    trace.write_record(keep, record[: trace.SEQUENCES])
    trace.record_path(keep).with_suffix(".part").write_text("[[0, [1, ")
    assert tokens_of(lab.run(trace, params, gguf=lab.gguf)) == tokens_of(whole)


def test_a_damaged_record_is_none(tmp_path):
    trace.record_path(tmp_path).write_text("[[0, [1, ")
    assert trace.read_record(tmp_path) == []


def test_windows_are_of_the_tokens_themselves(lab, written):
    model = LlamaModel(lab.gguf / "model.gguf", 64, 1, vocab_only=True)
    windows = model.text_windows(written, 10**6)
    plain = model.windows((written / "text.txt").read_text(), 10**6)
    model.close()
    assert windows[:, 1:].ravel().tolist() == [
        t for i, t in enumerate(tokens_of(written)[: windows.size]) if i % 64
    ]
    assert windows.shape != plain.shape or (windows != plain).any(), (
        "control tokens are lost in a text"
    )


def test_sequences_do_not_see_each_other(lab):
    path = lab.gguf / "model.gguf"
    with closing(SequencePool(path, 64, 1, 3)) as pool:
        alone = pool.extend([Piece(0, 0, [5, 6, 7, 8])])[0]
        pool.drop(0)
        pool.extend([Piece(0, 0, [5, 6]), Piece(1, 0, [30, 31, 32]), Piece(2, 0, [9])])
        both = pool.extend([Piece(1, 3, [33]), Piece(0, 2, [7, 8])])
        assert np.allclose(both[1], alone, atol=2e-3)
        assert not np.allclose(both[0], alone, atol=2e-3)


def test_tokens_are_drawn_by_their_probability():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    rng = np.random.default_rng(0)
    counts = np.bincount([trace.draw(logits, 1.0, rng) for _ in range(6000)], minlength=3)
    assert np.allclose(counts / 6000, [0.5, 0.3, 0.2], atol=0.03)
    cold = [trace.draw(logits, 0.05, rng) for _ in range(100)]
    assert cold.count(0) > 95
    with pytest.raises(Infeasible, match="not finite"):
        trace.draw(np.array([np.nan, 0], np.float32), 1.0, rng)


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.5, 50), (0.25, 25), (1, 100)])
def test_conversations_are_spread(share, count):
    assert sum(trace.is_conversation(n, share) for n in range(100)) == count


def test_a_study_on_the_models_own_text(project, tiny):
    args = (
        "optimize",
        "hardware=jetson_nano",
        f"model={tiny}",
        "texts=own",
        "probe=quick",
        "probe.report_tokens=1024",
        "planner=ladder",
        "planner.types=[Q8_0]",
        "max_rounds=1",
    )
    done = project.doit(*args)
    assert done.returncode == 0, done.stderr
    assert "search and report: written by tiny itself" in " ".join(done.stderr.split())
    built = project.built(done)
    assert {"trace:tiny-search", "trace:tiny-report"} <= set(built)
    folder = project.root / "outputs" / "latest" / "texts"
    search, report = ((folder / role / "text.txt").read_text() for role in ("search", "report"))
    assert search != report
    manifest = json.loads((folder.parent / "manifest.json").read_text())
    assert "texts/report/tokens.npy" in manifest["files"]
    metrics = {m["metric"] for m in project.result()["winner"]["measurements"]}
    assert {"kld_mean", "second_kld_mean"} <= metrics
    assert project.built(project.doit(*args)) == []
