"""Count a text's tokens by a checkpoint's own tokenizer, without transformers or a GGUF."""

from __future__ import annotations

from pathlib import Path


def count_tokens(folder: Path | None, text: str) -> int | None:
    """Return how many tokens a text has; None where no tokenizer file can be read.

    folder: of the checkpoint. Begin and end of text are not counted.
    """
    try:
        if folder and (folder / "tokenizer.json").is_file():
            return _by_tokenizers(folder / "tokenizer.json", text)
        if folder and (folder / "tokenizer.model").is_file():
            return _by_sentencepiece(folder / "tokenizer.model", text)
    except Exception:  # of a library, whatever the file's fault: the converter says it better
        return None
    return None


def _by_tokenizers(path: Path, text: str) -> int:
    from tokenizers import Tokenizer  # comes with transformers; not on the no-op path

    return len(Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids)


def _by_sentencepiece(path: Path, text: str) -> int:
    from sentencepiece import SentencePieceProcessor  # not on the no-op path

    return len(SentencePieceProcessor(model_file=str(path)).encode(text))
