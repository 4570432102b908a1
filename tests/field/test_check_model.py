"""`doit check-model`: what a model is, in a short list, before anything is built."""

import json

import torch
from field.folders import copied, edited, saved, seeing, tensors


def said(project, folder, *more):
    """What the command prints, by its first column."""
    done = project.doit("check-model", f"model={folder}", *more)
    assert done.returncode == 0, done.stderr
    return {line[:17].strip(): line[17:] for line in done.stdout.splitlines()}


def test_a_folder(project, tiny, tmp_path):
    folder = copied(tiny, tmp_path / "model")
    found = tensors(folder)
    found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()
    edited(saved(folder, found), tie_word_embeddings=True, sliding_window=64)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    lines = said(project, folder)
    assert lines["architecture"] == "LlamaForCausalLM (llama)"
    once = sum(t.numel() for n, t in found.items() if n != "lm_head.weight")
    assert lines["parameters"] == f"{once / 1e6:.1f} M, stored as F16"
    assert lines["embedding"].endswith("and saved twice: the GGUF has it once")
    assert lines["tokenizer"] == "tokenizer.model"
    assert lines["ends"].startswith("</s>, id 2 (generation_config.json), id 7")
    assert lines["context"] == "512 tokens, a sliding window of 64"
    assert lines["compared"].startswith("not yet")


def test_what_is_left_out(project, tiny, tmp_path):
    lines = said(project, seeing(tiny, tmp_path / "sees"))
    left_out = set(lines["left out"].split(", "))
    assert left_out == {"vision_tower (1 tensors)", "multi_modal_projector (1 tensors)"}


def test_the_plan_says_it_too(project, tiny, tmp_path):
    folder = seeing(tiny, tmp_path / "sees")
    done = project.doit("plan", "hardware=laptop", f"model={folder}")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("model: LlavaForConditionalGeneration (llama), ")
    assert second.startswith("left out: ")


def test_as_json(project, tiny):
    done = project.doit("check-model", f"model={tiny}", "--format", "json")
    facts = json.loads(done.stdout)
    assert facts["folder"]["rows"] == 2048
    assert facts["conversion"] is None


def test_what_is_no_model_is_refused(project, tiny, tmp_path):
    folder = copied(tiny, tmp_path / "model")
    saved(folder, {n: t.to(torch.int8) for n, t in tensors(folder).items()})
    done = project.doit("check-model", f"model={folder}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "quantized already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
