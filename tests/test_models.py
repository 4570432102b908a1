"""The bundled models, texts and questions."""

import json

import pytest
from conftest import ROOT

MODELS = ROOT / "models"
LIMITS = {"fable": 16_000_000, "fable_mini": 8_000_000}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_model(name):
    import make
    import stories  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM

    folder = MODELS / name
    assert (folder / "model.safetensors").stat().st_size <= LIMITS[name]
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"] % 256, config["intermediate_size"] % 256) == (0, 0)
    log = json.loads((folder / "training.json").read_text())
    assert log[-1]["validation_loss"] < 0.85
    assert abs(log[-1]["validation_loss"] - log[-2]["validation_loss"]) < 0.02, "no longer falling"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sp = make.tokenizer(folder)
    rows = [json.loads(x) for x in (MODELS / "tasks" / "stories.jsonl").read_text().splitlines()]
    with torch.no_grad():
        right = sum(
            max(range(4), key=lambda i: make.likelihood(model, sp, row["query"], row["choices"][i]))
            == row["gold"]
            for row in rows[:60]
        )
    assert right / 60 > 0.5, "chance is 0.25"
    assert "Four-way questions" in (folder / "README.md").read_text()


def test_questions():
    rows = [json.loads(x) for x in (MODELS / "tasks" / "stories.jsonl").read_text().splitlines()]
    assert len(rows) >= 300
    assert all(len(set(r["choices"])) == 4 and 0 <= r["gold"] < 4 for r in rows)
    counts = [sum(r["gold"] == i for r in rows) for i in range(4)]
    assert min(counts) > len(rows) / 6, "no place is favoured"


def test_texts_are_disjoint_and_the_scripts_own():
    import make

    texts = {n: (MODELS / "texts" / f"{n}.txt").read_text() for n in make.TEXT_BYTES}
    documents = {n: set(make.text_of(n)) for n in texts}
    for name, text in texts.items():
        assert text == "\n\n".join(make.text_of(name)) + "\n", (
            "the script writes exactly these bytes"
        )
        for other in documents:
            assert name == other or not documents[name] & documents[other]
