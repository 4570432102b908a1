"""Texts as people have them: decoded and counted when the study is opened."""

import gzip

import pytest
from conftest import ROOT

from sintra.config import compose
from sintra.core.errors import UserError
from sintra.formats.checkpoint.tokens import count_tokens
from sintra.formats.runtime.llama_cpp import LlamaModel
from sintra.study.text_check import length_fault, text_fault
from sintra.study.workspace import open_workspace

TEXT = (ROOT / "models" / "texts" / "calibration.txt").read_text()[:40_000]
MINI = ROOT / "models" / "fable_mini"
SOUND = {
    "bom": TEXT.encode("utf-8-sig"),
    "crlf": TEXT.replace("\n", "\r\n").encode(),
    "cr": TEXT.replace("\n", "\r").encode(),
    "nul": b"abc\0def " * 100 + TEXT.encode(),
    "special": b"<s></s><|user|>hi</s>" * 400,
    "oneline": TEXT.replace("\n", " ").encode(),
    "separators": "a\u2028b\u2029c\x85d ".encode() * 2000,
}
UNSOUND = {
    "empty": (b"", "is empty"),
    "blank": (b" \n" * 5000, "nothing but blanks"),
    "tiny": (b"Hello there.\n", "13 bytes, and two windows of 512 tokens"),
    "short": (TEXT.encode()[:2500], r"has \d+ tokens, and two windows"),
    "utf16": (TEXT.encode("utf-16"), "but UTF-16: convert it first .such as iconv -f UTF-16"),
    "utf16 without its mark": (TEXT.encode("utf-16-le"), "but UTF-16"),
    "latin1": (("caf\xe9 " * 200 + TEXT).encode("latin-1", "replace"), "isn't UTF-8: convert"),
    "surrogate": (b"\xed\xa0\x80 " + TEXT.encode(), "isn't UTF-8"),
    "cut": (TEXT.encode() + b"\xe2\x82", "isn't UTF-8"),
    "gz": (gzip.compress(TEXT.encode(), mtime=0), "gzip"),
}


def opened(tmp_path, data, role="search"):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    options = [f"model={MINI}", f"store.path={tmp_path / 'cache'}", f"texts.{role}={path}"]
    return open_workspace(ROOT, options)


@pytest.mark.parametrize("name", SOUND)
def test_sound_texts_are_taken(tmp_path, name):
    path = tmp_path / "text.txt"
    path.write_bytes(SOUND[name])
    assert text_fault(path) is None
    assert length_fault(path, 512, MINI) is None


@pytest.mark.parametrize("name", UNSOUND)
def test_what_cannot_do_is_said_when_the_study_is_opened(tmp_path, name):
    data, says = UNSOUND[name]
    with pytest.raises(UserError, match=says) as caught:
        opened(tmp_path, data)
    assert str(caught.value).startswith("texts.search: ")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("ac/*/*")), "nothing is kept of it"


@pytest.mark.parametrize("role", ["calibration", "report", "second"])
def test_every_text_is_looked_at(tmp_path, role):
    with pytest.raises(UserError, match=f"texts.{role}: .* is empty"):
        opened(tmp_path, b"", role)


def test_a_text_is_read_once_and_again_when_it_changes(tmp_path):
    assert opened(tmp_path, TEXT.encode()).study.id == opened(tmp_path, TEXT.encode()).study.id
    with pytest.raises(UserError, match="isn't UTF-8"):
        opened(tmp_path, b"\xff" + TEXT.encode())
    kept = (tmp_path / "cache" / "meta" / "digests.json").read_text()
    with pytest.raises(UserError, match="isn't UTF-8"):
        opened(tmp_path, b"\xff" + TEXT.encode())
    assert "text.txt#text" in kept


@pytest.mark.parametrize("value", ["", "''", "null"])
def test_a_text_that_is_needed_can_not_be_left_out(value):
    with pytest.raises(UserError, match=r"texts\.search=.* names nothing: give a file or own"):
        compose.compose(ROOT, [f"texts.search={value}"])


def test_a_step_with_too_short_a_text_fails_for_the_user_not_for_the_variant(lab_model):
    with pytest.raises(UserError, match="fewer than two windows of 512; give a longer text"):
        lab_model.windows(TEXT[:1000], 4096)


@pytest.fixture
def lab_model(tmp_path):
    """fable_mini's vocabulary in a GGUF, for its tokens alone."""
    from gguf import GGUFWriter
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(MINI / "tokenizer.model"))
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    count = pieces.get_piece_size()
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i).encode() for i in range(count)])
    writer.add_token_scores([pieces.get_score(i) for i in range(count)])
    kinds = [
        6 if pieces.is_byte(i) else 3 if pieces.is_control(i) else 2 if pieces.is_unknown(i) else 1
        for i in range(count)
    ]
    writer.add_token_types(kinds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = LlamaModel(tmp_path / "model.gguf", 512, 1, vocab_only=True)
    yield model
    model.close()


def test_tokens_are_counted_as_llama_cpp_counts_them(lab_model):
    assert count_tokens(MINI, TEXT) == len(lab_model.tokenize(TEXT))
    assert count_tokens(None, TEXT) is None
    assert count_tokens(ROOT, TEXT) is None
