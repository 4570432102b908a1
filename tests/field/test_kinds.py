"""What a folder holds is known before any work: right as it is, or refused in a line."""

import json
import shutil

import pytest
import torch
from field.folders import copied, edited, saved, seeing, tensors, with_tokenizer_json

from sintra.core.errors import UserError
from sintra.formats.checkpoint.folder import check_folder
from sintra.formats.checkpoint.model_kind import left_out
from sintra.study.pinning import Digests, pin_folder

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def folder(tiny, tmp_path):
    return copied(tiny, tmp_path / "model")


def refusal(folder, **options):
    """The line in which a folder is refused."""
    with pytest.raises(UserError) as caught:
        pin_folder(folder, Digests(folder.parent / "digests.json"), **options)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("beside", ["alone", "with a config", "beside its base model"])
def test_an_adapter_is_to_be_merged(folder, beside):
    if beside != "beside its base model":
        (folder / "model.safetensors").unlink()
    if beside == "alone":
        (folder / "config.json").unlink()
    text = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(text))
    saved(
        folder, {"base_model.model.q.lora_A.weight": torch.zeros(2, 2)}, "adapter_model.safetensors"
    )
    line = refusal(folder)
    assert "merge it into its base model (org/base)" in line


@pytest.mark.parametrize(
    "method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4"]
)
def test_a_quantized_checkpoint_is_not_the_16_bit_model(folder, method):
    edited(folder, quantization_config={"quant_method": method, "bits": 4})
    assert f"quantized already ({method})" in refusal(folder)


def test_what_auto_gptq_wrote(folder):
    (folder / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    assert "quantized already (gptq)" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantized_without_saying_so(folder, dtype):
    found = tensors(folder)
    found[DOWN] = torch.zeros_like(found[DOWN], dtype=dtype)
    saved(folder, found)
    assert DOWN in refusal(folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["BertModel"]}, "BertModel, which has no output layer"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "which classifies texts"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder"),
        ({"architectures": None}, "names no class"),
        ({"architectures": None, "_class_name": "UNet2DConditionModel"}, "diffusion"),
    ],
)
def test_other_tasks(folder, config, says):
    assert says in refusal(edited(folder, **config))


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "MptForCausalLM", "ChatGLMModel"])
def test_other_names_of_language_models(folder, name):
    assert check_folder(edited(folder, architectures=[name])).files


def test_no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer: expected tokenizer.json or tokenizer.model" in refusal(folder)


def test_tokens_beyond_the_embedding(folder):
    rows = tensors(folder)["model.embed_tokens.weight"].shape[0]
    names = [f"t{i}" for i in range(rows)]
    pin_folder(with_tokenizer_json(folder, names), Digests(folder.parent / "digests.json"))
    (folder / "tokenizer.model").touch()
    line = refusal(with_tokenizer_json(folder, [*names, "<extra>"]))
    assert f"'<extra>' with id {rows}, the embedding has {rows} rows" in line


def test_a_config_of_another_model(folder):
    assert "vocab_size 2100, the embedding has 2048 rows" in refusal(
        edited(folder, vocab_size=2100)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("value", "says"), [(float("nan"), "NaN"), (-float("inf"), "infinite")])
def test_weights_that_are_no_numbers(folder, dtype, value, says):
    found = {name: t.to(dtype) for name, t in tensors(folder).items()}
    found[DOWN][3, 5] = value
    assert f"'{DOWN}' holds {says} weights" in refusal(saved(folder, found))


def test_weights_beyond_float16(folder):
    found = {name: t.float() for name, t in tensors(folder).items()}
    found[DOWN][0, 0] = 65519.0
    pin_folder(saved(folder, found), Digests(folder.parent / "one.json"), convert="f16")
    found[DOWN][0, 0] = -65520.0
    line = refusal(saved(folder, found), convert="f16")
    assert "float16 ends at 65504: give model.convert=bf16" in line
    pin_folder(folder, Digests(folder.parent / "two.json"), convert="bf16")


def test_weights_are_looked_at_once_for_each_content(folder):
    digests = Digests(folder.parent / "digests.json")
    pin_folder(folder, digests, convert="f16")
    kept = digests.path.read_text()
    assert "#extreme" in kept
    pin_folder(folder, Digests(digests.path), convert="f16")
    assert digests.path.read_text() == kept


def test_a_checkpoint_within_is_named(folder, tmp_path):
    shutil.move(folder, tmp_path / "run" / "checkpoint-500")
    assert "checkpoint-500?" in refusal(tmp_path / "run")


def test_a_second_copy_in_another_format_is_left_out(folder):
    before = check_folder(folder).files
    saved(folder, {"tok_embeddings.weight": torch.zeros(4, 4)}, "consolidated.safetensors")
    assert check_folder(folder).files == before


def test_a_model_that_sees_too(tiny, tmp_path):
    found = check_folder(seeing(tiny, tmp_path / "sees"))
    assert left_out(found.tensors) == {"vision_tower": 1, "multi_modal_projector": 1}
