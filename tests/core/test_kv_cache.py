"""Types of the KV cache: keys and values apart, in options, recipes, estimates and commands."""

import re

import numpy as np
import pytest
from configs import LLAMA, LLAMA3_8B, write

from sintra.config.options import Config, ModelConf, PlannerConf
from sintra.config.study import study_of
from sintra.core.errors import UserError
from sintra.core.kv_cache import checked_kv, is_kv, kv_arguments, kv_element_bytes, kv_pair
from sintra.core.recipe import Recipe, variant_slug
from sintra.formats.runtime.llama_cpp import open_model
from sintra.hardware.boards.runner import bench_command
from sintra.hardware.estimate.estimate import kv_bytes
from sintra.integrations.exports.ollama import cache_note
from sintra.study.round_checks import check_recipe

PAIR = "q8_0/q5_1"


def test_a_single_name_means_both():
    assert kv_pair("q8_0") == ("q8_0", "q8_0")
    assert kv_pair(PAIR) == ("q8_0", "q5_1")
    assert checked_kv(["f16", "q8_0/q8_0", "q8_0", PAIR]) == ("f16", "q8_0", PAIR)
    assert checked_kv([]) == ("f16",)


@pytest.mark.parametrize("name", ["q9_0", "q8_0/", "q8_0/q5_1/q4_0", "/q8_0", "", "q8_0/../x"])
def test_an_unknown_type_is_a_line(name):
    with pytest.raises(UserError, match=re.escape(f"planner.kv has {name!r}: ")):
        checked_kv([name])
    with pytest.raises(UserError, match=r"planner\.kv has"):
        study_of(Config(model=ModelConf(source="x"), planner=PlannerConf(kv=(name,))), [])
    assert not is_kv(name)


def test_a_cache_is_as_large_as_its_blocks():
    """32 elements in 34, 24 and 18 bytes."""
    assert kv_element_bytes(PAIR) == (34 / 32 + 24 / 32) / 2
    assert kv_bytes(LLAMA3_8B, 4096, PAIR) == kv_bytes(LLAMA3_8B, 4096) * 58 / 128
    assert kv_bytes(LLAMA3_8B, 4096, "q4_0") == kv_bytes(LLAMA3_8B, 4096) * 18 / 64


def test_a_recipe_names_it_and_a_shared_round_may():
    recipe = Recipe("Q4_K_M", kv=PAIR)
    assert variant_slug(recipe) == "Q4_K_M-kv_q8_0-q5_1"
    assert Recipe.of(recipe.as_json()) == recipe
    check_recipe(recipe)
    for wrong in ("q8_0/q8_0", "q8_0/../x", {}):
        with pytest.raises(ValueError, match="KV cache is unknown"):
            check_recipe(Recipe("Q4_K_M", kv=wrong))


def test_commands_name_both(tmp_path):
    words = ["--cache-type-k", "q8_0", "--cache-type-v", "q5_1", "--flash-attn", "on"]
    assert kv_arguments(PAIR) == words
    assert kv_arguments("f16") == []
    (tmp_path / "bench").write_text("#!/bin/sh\n")
    (tmp_path / "bench").chmod(0o755)
    job = {"runtime": {"path": str(tmp_path / "bench")}, "kv": PAIR, "job": "speed"}
    job |= {"gguf": "m", "threads": 1, "prompt": 1, "generate": 1, "repeat": 1}
    line = " ".join(bench_command(job | {"gpu_layers": None, "limit": None}))
    assert "-ctk q8_0 -ctv q5_1" in line


def test_ollama_says_what_it_has_not():
    assert cache_note("f16") == ""
    assert cache_note("q8_0").endswith("OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0")
    for kv in (PAIR, "q5_1"):
        assert f"Ollama has no KV cache of {kv}" in cache_note(kv)


@pytest.mark.parametrize("kv", [PAIR, "q5_1", "q4_0/f16"])
def test_llama_cpp_runs_it(tmp_path, kv):
    write(tmp_path / "model.gguf", LLAMA | {"vocab_size": 512}, tokens=True)
    with open_model(tmp_path / "model.gguf", 64, 1, kv=kv) as model:
        rows = model.log_probs(np.arange(64, dtype=np.int32) + 300, 32)
    assert np.isfinite(rows).all()
