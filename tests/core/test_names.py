"""What people read of a variant: what it is, never a digest."""

import json
import re
from dataclasses import replace

import gguf
import jsonschema
import pytest
from conftest import ROOT

from sintra.cli.docs.json_schema import result_schema
from sintra.core.recipe import Recipe, unique_names, variant_name, variant_slug
from sintra.core.types import Proposal
from sintra.formats.gguf.mix_bits import mix_bits
from sintra.formats.gguf.sizes import BLOCKS, mix_patterns
from sintra.planning.solver.groups import group_words
from sintra.study.result_upgrade import parse_result
from sintra.study.round_checks import check_proposal
from sintra.study.variant_names import readable_step, step_parts

UNIFORM = Recipe("Q2_K", True, (), ((".*", "Q2_K"),), "compensated")
TYPES = {"output.weight": "Q6_K", "blk.0.ffn_up.weight": "Q2_K"}
MIX = replace(UNIFORM, tensors=mix_patterns(TYPES))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (UNIFORM, "Q2_K uniform"),
        (replace(UNIFORM, refine=True), "Q2_K uniform, refined"),
        (replace(UNIFORM, refine=True, polish=True), "Q2_K uniform, refined, polished"),
        (replace(UNIFORM, rounding="nearest"), "Q2_K uniform, nearest"),
        (replace(UNIFORM, importance=False), "Q2_K uniform, no imatrix"),
        (replace(UNIFORM, drop=(3,), kv="q8_0"), "Q2_K uniform, without block 3, KV cache q8_0"),
        (Recipe("Q2_K"), "llama.cpp Q2_K"),
        (Recipe("Q4_K_M", importance=True), "llama.cpp Q4_K_M, imatrix"),
        (Recipe("Q2_K", rounding="compensated"), "llama.cpp Q2_K, compensated"),
        (Recipe("Q2_K", tensors=(("a", "Q6_K"),)), "llama.cpp Q2_K, own types"),
        (Recipe("w4g128", format="gptq"), "GPTQ w4g128"),
        (Recipe("given_12345678", format="gptq"), "GPTQ as given"),
        (MIX, "mix"),
    ],
)
def test_a_variant_is_called_by_what_it_is(recipe, name):
    assert variant_name(recipe) == name


def test_a_mix_has_its_bits_and_a_probe_its_tensors():
    assert variant_name(MIX, 4.309) == "mix 4.31 bpw"
    assert variant_name(MIX, 4.309, "attn_k, first half") == "probe attn_k, first half"
    assert variant_name(replace(MIX, refine=True), 2.626) == "mix 2.63 bpw, refined"


def test_two_of_a_name_are_told_apart():
    others = [replace(MIX, drop=(n,)) for n in range(2)]
    names = unique_names({MIX: "mix 4.31 bpw", others[0]: "mix 4.31 bpw", others[1]: "x"})
    assert list(names.values()) == ["mix 4.31 bpw", "mix 4.31 bpw (2)", "x"]


def test_bits_are_those_of_all_tensors():
    tensors = (
        ("output.weight", "F16", (256, 100)),
        ("blk.0.ffn_up.weight", "F16", (256, 300)),
        ("blk.0.ffn_norm.weight", "F32", (256,)),
    )
    size = 100 * 210 + 300 * 84 + 256 * 4
    assert mix_bits(MIX, tensors) == pytest.approx(8 * size / (401 * 256))
    odd = (("output.weight", "F16", (320, 100)),)  # no whole blocks of 256: Q8_0 instead of Q6_K
    assert mix_bits(MIX, odd) == pytest.approx(8.5)


def test_blocks_are_those_of_ggml():
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in BLOCKS} == BLOCKS


def test_a_probe_says_which_part_of_the_depth():
    halves = ["attn_k/0", "attn_k/1", "token_embd"]
    assert [group_words(g, halves) for g in halves] == [
        "attn_k, first half",
        "attn_k, second half",
        "token_embd",
    ]
    assert group_words("ffn_up/0", ["ffn_up/0"]) == "ffn_up"
    assert group_words("ffn_up/4", [f"ffn_up/{n}" for n in range(6)]) == "ffn_up, depth 5 of 6"


def test_steps_are_shown_without_digests():
    parts = step_parts("fable", {MIX: "mix 4.31 bpw (2)", UNIFORM: "Q2_K uniform"})
    for recipe in (MIX, replace(MIX, refine=True)):
        shown = readable_step(f"quality:fable-{variant_slug(recipe)}-search", parts)
        assert shown.startswith("quality:fable-mix-4.31-bpw-2-")
    assert readable_step("quality:fable-all-Q2_K-search", parts) == "quality:fable-all-Q2_K-search"


def test_what_others_planned_names_no_probe_with_control_characters():
    sound = Proposal(Recipe("Q2_K"), "why", "solver", probe="attn_k, first half")
    check_proposal(sound)
    with pytest.raises(ValueError, match="what it probes"):
        check_proposal(replace(sound, probe="\x1b[2J"))


def test_a_result_of_an_earlier_version_is_read():
    """A file that version 1 wrote, as it was (its lists shortened)."""
    data = (ROOT / "tests" / "core" / "result-1.json").read_text()
    result = parse_result(data)
    names = [row["name"] for row in result["candidates"]]
    assert result["schema"] == 2
    assert len(set(names)) == len(names)
    assert result["winner"]["name"] == names[0]
    assert any(re.fullmatch(r"mix of \d+\.\d\d MB.*", name) for name in names)
    assert not any(re.search(r"[0-9a-f]{8}", name) for name in names)
    words = {"pass", "fail", "inconclusive"}
    assert {row["verdict"]["status"] for row in result["candidates"]} == words
    assert result["status"] == "pass"
    jsonschema.validate(result, result_schema())
    again = parse_result(json.dumps(result))
    assert again == result
    for broken in ("[]", "{", '{"schema": 1}', '{"schema": 1, "candidates": 3}'):
        with pytest.raises(ValueError, match=r"not a result|Expecting"):
            parse_result(broken)
