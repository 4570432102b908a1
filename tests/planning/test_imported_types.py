"""The types of any GGUF as a recipe."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from small_studies import study

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.formats.gguf.imported import read_types
from sintra.formats.gguf.sizes import resolve_types
from sintra.planning.planners import replay
from sintra.planning.state import ModelFacts, PlannerState
from sintra.study.round_checks import LITERAL_PATTERN

WIDTH = 256
TYPES = {
    "token_embd.weight": "Q6_K",
    "blk.0.attn_q.weight": "Q4_K",
    "blk.1.attn_q.weight": "Q5_K",
    "blk.0.ffn_down.weight": "Q4_K",
    "blk.1.ffn_down.weight": "Q4_K",
    "blk.0.ffn_gate_inp.weight": "F32",  # a router
}


def write(path, types):
    """A GGUF whose tensors have these types and no sense."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, kind in types.items():
        number = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[number]
        raw = np.zeros((2, WIDTH // block * size), dtype=np.uint8)
        writer.add_tensor(name, raw, raw_dtype=number)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def proposed(path, columns=(), **options):
    given = replace(study(replay=str(path), **options), id="s")
    return replay.propose(given, PlannerState(model=ModelFacts(columns=dict(columns))))


def test_a_mix_has_the_types_of_the_file(tmp_path):
    path = write(tmp_path / "their.gguf", TYPES)
    [proposal] = proposed(path, {WIDTH: 10}, rounding="compensated")
    recipe = proposal.recipe
    assert (recipe.type, recipe.importance, recipe.rounding) == ("Q4_K_M", True, "compensated")
    assert recipe.complete
    quantized = {name: kind for name, kind in TYPES.items() if kind != "F32"}
    assert resolve_types(recipe.tensors, quantized) == quantized
    assert {part.tensors[0][1] for part in recipe.uniform_parts()} == {"Q4_K", "Q5_K", "Q6_K"}
    assert proposal.why == "the types of their.gguf"


def test_what_stays_in_16_bits_stays(tmp_path):
    """Of F16 there is no uniform file: llama.cpp then quantizes the mix at once."""
    types = TYPES | {"token_embd.weight": "F16"}
    [proposal] = proposed(write(tmp_path / "x.gguf", types))
    assert not proposal.recipe.complete
    quantized = {name: kind for name, kind in types.items() if kind != "F32"}
    names = [*types, "blk.7.attn_k.weight"]
    assert resolve_types(proposal.recipe.tensors, names) == quantized
    assert all(LITERAL_PATTERN.fullmatch(pattern) for pattern, _ in proposal.recipe.tensors)


def test_it_is_proposed_once(tmp_path):
    path = write(tmp_path / "x.gguf", TYPES)
    [proposal] = proposed(path)
    from small_studies import measured

    from sintra.planning.state import StudyResults

    state = PlannerState(StudyResults((measured(proposal.recipe, 0, 1),)))
    assert replay.propose(study(replay=str(path)), state) == []
    assert Recipe.of(proposal.recipe.as_json()) == proposal.recipe


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ({"token_embd.weight": "F16"}, "isn't quantized"),
        ({"blk.0.(a+)+$.weight": "Q4_K"}, "not a name of llama.cpp's"),
    ],
)
def test_what_has_no_types_to_take_is_refused(tmp_path, types, says):
    with pytest.raises(UserError, match=says):
        read_types(write(tmp_path / "x.gguf", types))


def test_another_model_is_refused(tmp_path):
    path = write(tmp_path / "x.gguf", TYPES)
    with pytest.raises(UserError, match="of another model than m: it has rows of 256 weights"):
        proposed(path, {576: 1, 1536: 1})


def test_a_damaged_file_is_a_line(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    with pytest.raises(UserError, match="not a sound GGUF"):
        proposed(tmp_path / "x.gguf")


def test_an_unknown_rounding_is_a_line(tmp_path):
    with pytest.raises(UserError, match="use nearest or compensated"):
        proposed(write(tmp_path / "x.gguf", TYPES), rounding="best")
