"""Describe any GGUF by its header: types by block and by kind, sizes, bits, metadata, tokenizer."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sintra.core.errors import UserError
from sintra.core.text import printable_line
from sintra.formats.gguf.chat_template import TEMPLATE_KEY
from sintra.formats.gguf.header import (
    STRING,
    ArrayInfo,
    Header,
    Malformed,
    Value,
    read_gguf_header,
    read_texts,
)
from sintra.formats.gguf.sizes import BLOCK_NAME

LONGEST_VALUE = 160  # characters of a text of the metadata
TOKENS_KEY = "tokenizer.ggml.tokens"
SPECIAL = ("bos", "eos")  # tokens that are named


@dataclass(frozen=True)
class TensorLine:
    """One tensor of a file."""

    name: str
    kind: str  # the name without its block and ".weight", as "ffn_down"
    block: int | None  # None outside the blocks
    type: str  # of ggml, such as "Q4_K"
    bytes: int
    count: int  # elements
    matrix: bool  # whether it has more than one side


@dataclass(frozen=True)
class TokenizerFacts:
    """What the header says of the tokenizer."""

    model: str  # gpt2, llama, ...; "" where the file has none
    pre: str  # how text is split first; "" where not said
    tokens: int
    special: dict[str, str]  # bos, eos -> text of the token


@dataclass(frozen=True)
class GgufDescription:
    """What a file is; every text in it is one printable line."""

    file: str  # its name
    path: Path
    bytes: int  # of the file
    architecture: str
    title: str  # general.name; "" where not said
    declared: str  # the file type that it says it has, as "Q4_K_M"; "" where not said
    context: int  # tokens that it was trained for; 0 where not said
    tensors: tuple[TensorLine, ...]
    metadata: dict[str, str | int | float | bool]  # lists in words; without the chat template
    template: int  # characters of the chat template; 0: it has none
    tokenizer: TokenizerFacts

    @property
    def parameters(self) -> int:
        """Return the number of elements of all tensors."""
        return sum(t.count for t in self.tensors)

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all tensors' data."""
        return sum(t.bytes for t in self.tensors)

    @property
    def bits(self) -> float:
        """Return the bits per weight over all tensors."""
        return 8 * self.weight_bytes / max(1, self.parameters)

    @property
    def blocks(self) -> int:
        """Return the number of blocks that tensors are of."""
        return len({t.block for t in self.tensors if t.block is not None})

    def share_by_type(self) -> dict[str, float]:
        """Return type -> share of the weights, the largest first."""
        counts: dict[str, int] = defaultdict(int)
        for tensor in self.tensors:
            counts[tensor.type] += tensor.count
        order = sorted(counts, key=lambda kind: -counts[kind])
        return {kind: counts[kind] / max(1, self.parameters) for kind in order}

    def types_by_kind(self) -> dict[str, dict[str, list[int]]]:
        """Return kind of matrix -> type -> its blocks; no blocks for what stands outside."""
        kinds: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for tensor in (t for t in self.tensors if t.matrix):
            blocks = kinds[tensor.kind][tensor.type]
            if tensor.block is not None:
                blocks.append(tensor.block)
        return {kind: {t: sorted(b) for t, b in types.items()} for kind, types in kinds.items()}

    def types_by_block(self) -> dict[int, dict[str, int]]:
        """Return block -> type -> how many of its matrices have it."""
        blocks: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for tensor in self.tensors:
            if tensor.matrix and tensor.block is not None:
                blocks[tensor.block][tensor.type] += 1
        return {block: dict(blocks[block]) for block in sorted(blocks)}

    def block_bits(self, block: int) -> float:
        """Return the bits per weight of a block's matrices."""
        own = [t for t in self.tensors if t.matrix and t.block == block]
        return 8 * sum(t.bytes for t in own) / sum(t.count for t in own)

    def vectors(self) -> dict[str, int]:
        """Return type -> how many norms and biases have it."""
        counts: dict[str, int] = defaultdict(int)
        for tensor in (t for t in self.tensors if not t.matrix):
            counts[tensor.type] += 1
        return dict(counts)


def read_description(path: Path) -> GgufDescription:
    """Read what a file is. Raises UserError where it is missing or no sound GGUF."""
    try:
        header = read_gguf_header(path)
        size = path.stat().st_size
        return GgufDescription(
            printable_line(path.name, LONGEST_VALUE),
            path,
            size,
            header.text("general.architecture"),
            printable_line(header.text("general.name"), LONGEST_VALUE),
            declared_type(header),
            context_of(header),
            tuple(tensor_lines(header)),
            metadata_of(header),
            len(header.text(TEMPLATE_KEY)),
            tokenizer_of(path, header),
        )
    except Malformed as error:
        raise UserError(str(error)) from None
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def tensor_lines(header: Header) -> list[TensorLine]:
    """Return the tensors of a header."""
    from gguf import GGMLQuantizationType  # loads numpy

    lines = []
    for tensor in header.tensors:
        stem = tensor.name.removesuffix(".weight")
        inside = BLOCK_NAME.match(stem)
        lines.append(
            TensorLine(
                tensor.name,
                inside[2] if inside else stem,
                int(inside[1]) if inside else None,
                GGMLQuantizationType(tensor.type).name,
                tensor.size,
                math.prod(tensor.shape),
                len(tensor.shape) > 1,
            )
        )
    return lines


def declared_type(header: Header) -> str:
    """Return the file type that a header names; "" where it names none that is known."""
    from gguf import LlamaFileType  # loads numpy

    number = header.metadata.get("general.file_type")
    known = {int(kind): kind.name for kind in LlamaFileType}
    name = known.get(number, "") if isinstance(number, int) else ""
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def context_of(header: Header) -> int:
    """Return the context length that a model was trained for, tokens; 0 where it isn't said."""
    value = header.metadata.get(f"{header.text('general.architecture')}.context_length")
    return value if isinstance(value, int) else 0


def metadata_of(header: Header) -> dict[str, str | int | float | bool]:
    """Return the metadata, printable, lists in words; without the chat template."""
    return {
        printable_line(key, LONGEST_VALUE): shown_value(value)
        for key, value in header.metadata.items()
        if key != TEMPLATE_KEY
    }


def shown_value(value: Value) -> str | int | float | bool:
    """Return a value of the metadata as JSON and a terminal can have it."""
    if isinstance(value, bytes):
        return printable_line(value.decode(errors="replace"), LONGEST_VALUE)
    if isinstance(value, ArrayInfo):
        return f"{value.length} {'texts' if value.element_type == STRING else 'numbers'}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def tokenizer_of(path: Path, header: Header) -> TokenizerFacts:
    """Return what a header says of the tokenizer."""
    array = header.metadata.get(TOKENS_KEY)
    ids = {n: header.metadata.get(f"tokenizer.ggml.{n}_token_id") for n in SPECIAL}
    numbers = {name: n for name, n in ids.items() if isinstance(n, int)}
    texts = read_texts(path, array, set(numbers.values())) if isinstance(array, ArrayInfo) else {}
    return TokenizerFacts(
        printable_line(header.text("tokenizer.ggml.model"), LONGEST_VALUE),
        printable_line(header.text("tokenizer.ggml.pre"), LONGEST_VALUE),
        array.length if isinstance(array, ArrayInfo) else 0,
        {name: printable_line(texts[n], 40) for name, n in numbers.items() if n in texts},
    )
