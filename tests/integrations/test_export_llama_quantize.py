"""What stock llama.cpp makes of the exported types and matrix is the winner, to the tensor."""

import json
import os
import re
import subprocess

import gguf
import numpy as np
import pytest

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.formats.gguf.header import read_gguf_header
from sintra.formats.gguf.imatrix import load_importance, write_imatrix
from sintra.formats.gguf.imported import matrix_types
from sintra.formats.runtime import quantizer
from sintra.integrations.exports import llama_quantize
from sintra.store.store import Store


@pytest.fixture(scope="module")
def exported(finished):
    folder = (finished.root / "outputs" / "latest").resolve()
    llama_quantize.export(folder, Store(finished.root / "cache"), measure="true")
    return folder / "llama_quantize"


def read_lines(folder):
    """As llama-quantize reads them: NAME=TYPE, the name in lower case."""
    words = (folder / "tensor_types.txt").read_text().split()
    pairs = [word.partition("=") for word in words]
    return [(name.lower(), kind.upper()) for name, _, kind in pairs]


def read_matrix(path):
    """As common_imatrix_load does: sums over counts, by tensor."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    names = {name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")}
    return {n: (tensors[f"{n}.in_sum2"] / tensors[f"{n}.counts"]).reshape(-1) for n in names}


def test_stock_llama_cpp_makes_the_same_types(exported):
    types = matrix_types(read_gguf_header(exported.parent / "model.gguf"))
    result = json.loads((exported.parent / "result.json").read_text())
    recipe = Recipe.of(result["winner"]["recipe"])
    matrix = read_matrix(exported / "imatrix.gguf") if recipe.importance else None
    target = exported / "stock.gguf"
    if program := os.environ.get("LLAMA_QUANTIZE"):  # the tool itself, where there is one
        words = llama_quantize.command_words(recipe)
        subprocess.run([program, *words[1:-2], target.name, words[-1]], cwd=exported, check=True)
    else:
        quantizer.quantize(
            exported / "original.gguf",
            target,
            1,
            kind=recipe.type,
            tensors=read_lines(exported),
            matrix=matrix,
        )
    assert matrix_types(read_gguf_header(target)) == types
    # the study rounds to nearest, as llama.cpp does
    assert recipe.rounding == "nearest"
    theirs, ours = (
        {t.name: bytes(t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}
        for path in (target, exported.parent / "model.gguf")
    )
    assert theirs == ours
    target.unlink()


def test_what_stock_rounding_costs_is_measured(exported):
    readme = (exported / "README.md").read_text()
    found = re.findall(r"([\d.]+) \+-[\d.]+ nats", readme)
    assert len(found) == 2
    assert found[0] == found[1]  # that study's winner is rounded to nearest
    assert "llama-quantize" in readme


def test_the_matrix_is_ours_to_the_bit(tmp_path):
    rng = np.random.default_rng(1)
    means = {
        "blk.0.ffn_up_exps.weight": rng.random(3 * 64, dtype=np.float32),
        "blk.1.attn_q.weight": rng.random(64, dtype=np.float32) * np.float32(1e-7),
        "blk.2.attn_q.weight": rng.random(64, dtype=np.float32),
    }
    np.savez(tmp_path / "importance.npz", **means)
    loaded = load_importance(tmp_path, [1])
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, loaded, dict.fromkeys(loaded, 64), 5120, 512, "text")
    back = read_matrix(path)
    assert back.keys() == {"blk.0.ffn_up_exps.weight", "blk.1.attn_q.weight"}
    assert all(np.array_equal(back[name], loaded[name]) for name in back)
    fields = gguf.GGUFReader(path).fields
    assert "general.architecture" not in fields
    assert fields["general.type"].contents() == "imatrix"
    assert fields["imatrix.datasets"].contents() == ["text"]
    assert fields["imatrix.chunk_count"].contents() == 10
    shapes = {t.name: tuple(map(int, t.shape)) for t in gguf.GGUFReader(path).tensors}
    assert shapes["blk.0.ffn_up_exps.weight.in_sum2"] == (64, 3)
    assert shapes["blk.0.ffn_up_exps.weight.counts"] == (1, 3)


def test_a_mistake_is_a_line(finished):
    with pytest.raises(UserError, match="neither true nor false"):
        llama_quantize.export(finished.root, Store(finished.root / "cache"), measure="yes")
