"""Is the 16-bit GGUF the model? Compare its predictions with transformers' on a few windows.

Every number of a study counts from the 16-bit GGUF. Where llama.cpp doesn't carry a part of the
model (a sliding window, a kind of rope scaling), that GGUF is another model, and the study would be
about that one. One of the windows is longer than the model's sliding window and than the context
before its rope was scaled, where they are at most LONGEST.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sintra.core import lazy
from sintra.core.errors import Infeasible, UserError
from sintra.core.stage import Context, Stage
from sintra.core.types import Measurement
from sintra.formats.checkpoint.config_values import rope_scalings, sliding_window, text_part
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.runtime.blocks import BlockModel, OuterLayers, run_block
from sintra.formats.runtime.llama_cpp import log_softmax, open_model
from sintra.probes.measurements import write_measurements

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

WINDOWS = 2  # of the study's context
SCORED = 128  # positions of a window that are compared, its last ones
BEYOND = 192  # tokens of the long window beyond the model's own one
LONGEST = 8192  # tokens of a sliding window or original context that is tried
# nats: float16 beside float32 is a hundred times closer, two models farther
FARTHEST = 0.01


class Reach(NamedTuple):
    """A length at which the model computes something else than before."""

    tokens: int
    what: str  # that begins there, in words


class Comparison(NamedTuple):
    """How far the two are apart over the scored positions of some windows."""

    kld: float  # mean KL(transformers || GGUF), nats
    same_top: float  # share of positions with the same likeliest token, 0 to 1
    positions: int  # that were compared


def run(context: Context) -> None:
    """Write measurements.json: convert_kld_mean and convert_same_top, and convert_kld_long where a
    long window was compared.

    inputs: model (the checkpoint), gguf, text. params: context (tokens of a window).
    Raises UserError where the two are different models, Infeasible where transformers can't run
    the checkpoint as one network.
    """
    config = read_object(context.inputs["model"] / "config.json")
    reach = longest_reach(config)
    size = min(context.params["context"], reach.tokens if reach else LONGEST)
    short = gguf_log_probs(context, size, WINDOWS)
    long = gguf_log_probs(context, reach.tokens + BEYOND, 1) if reach else {}
    windows = [np.array(ids, np.int32) for ids in (*short, *long)]
    theirs = reference_log_probs(context, windows)
    ours = [*short.values(), *long.values()]
    near = compare(theirs[: len(short)], ours[: len(short)])
    far = compare(theirs[len(short) :], ours[len(short) :]) if long else None
    refuse_other_model(near, far, reach, config)
    write_measurements(context, measurements(near, far, size, reach))


def longest_reach(config: Mapping[str, Any]) -> Reach | None:
    """Return the longest length, at most LONGEST, beyond which the model computes otherwise."""
    text, found = text_part(config), []
    if window := sliding_window(text):
        found.append(Reach(window, f"a sliding window of {window} tokens"))
    for kind, before in rope_scalings(text):
        if before is not None:
            found.append(Reach(before, f"rope scaling ({kind}) beyond {before} tokens"))
    return max((r for r in found if 0 < r.tokens <= LONGEST), default=None)


def gguf_log_probs(
    context: Context, size: int, count: int
) -> dict[tuple[int, ...], NDArray[np.float32]]:
    """Return the GGUF's log-probabilities in nats at the last SCORED positions of each window.

    size: tokens of a window; count: windows at most. Window's token ids -> (SCORED, vocabulary);
    empty where the text is too short.
    """
    gguf = context.inputs["gguf"] / "model.gguf"
    with open_model(gguf, size, context.threads) as model:
        ids = model.text_tokens(context.inputs["text"])
        found = {}
        for start in range(0, min(count, len(ids) // size) * size, size):
            window = ids[start : start + size].copy()
            if model.adds_bos:
                window[0] = model.bos
            found[tuple(window.tolist())] = model.log_probs(window, first_scored(size))
            context.say(f"window of {size} tokens, llama.cpp")
        return found


def first_scored(size: int) -> int:
    """Return the first position of a window whose next token is compared."""
    return max(0, size - 1 - SCORED)


def reference_log_probs(
    context: Context, windows: Sequence[NDArray[np.int32]]
) -> list[NDArray[np.float32]]:
    """Return transformers' log-probabilities in nats, as gguf_log_probs; one block at a time is in
    memory.
    """
    torch.set_num_threads(context.threads)
    model = load_blocks(context)
    outer = OuterLayers(model)
    batches = [torch.from_numpy(window).long()[None] for window in windows]
    states, calls = [], []
    for batch in batches:
        states.append(outer.first_input(batch))
        calls.append(list(outer.calls))
    for number in range(len(model.blocks)):
        block = model.load(number)
        states = [run_block(block, x, own[number]) for x, own in zip(states, calls, strict=True)]
        model.drop(number)
    context.say(f"{len(windows)} windows through {len(model.blocks)} blocks, transformers")
    model.load_head()
    with torch.no_grad():
        logits = [
            outer.logits(b, x)[0].float().numpy() for b, x in zip(batches, states, strict=True)
        ]
    return [log_softmax(rows[first_scored(len(rows)) : -1]) for rows in logits]


def load_blocks(context: Context) -> BlockModel:
    """Load what lies around the blocks. Raises Infeasible where transformers can't."""
    try:
        return BlockModel(context.inputs["model"])
    except (ImportError, ValueError, KeyError, StopIteration) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Infeasible("unsupported", f"transformers can't run the checkpoint: {first}") from None


def compare(
    theirs: Sequence[NDArray[np.float32]], ours: Sequence[NDArray[np.float32]]
) -> Comparison:
    """Compare log-probabilities in nats, (positions, vocabulary) each; only tokens of both count.

    One of them may have more: rows of the embedding that no token has.
    """
    klds, same = [], []
    for p, q in zip(theirs, ours, strict=True):
        size = min(p.shape[1], q.shape[1])
        wide, other = p[:, :size].astype(np.float64), q[:, :size]
        klds.append((np.exp(wide) * (wide - other)).sum(1))
        same.append(wide.argmax(1) == other.argmax(1))
    return Comparison(
        max(0.0, float(np.concatenate(klds).mean())),  # rounding may leave less than nothing
        float(np.concatenate(same).mean()),
        sum(map(len, klds)),
    )


def refuse_other_model(
    near: Comparison, far: Comparison | None, reach: Reach | None, config: Mapping[str, Any]
) -> None:
    """Refuse a GGUF that is another model. Raises UserError."""
    if near.kld <= FARTHEST and (far is None or far.kld <= FARTHEST):
        return
    end = (
        "; a study would be about another model than yours (model.check=false goes on all the same)"
    )
    if near.kld <= FARTHEST and far and reach:
        raise UserError(
            f"llama.cpp doesn't carry {reach.what}: up to there the GGUF and the original agree, "
            f"beyond they are {far.kld:.2g} nats apart{end}"
        )
    suspects = ", ".join(special_parts(config)) or "nothing unusual"
    raise UserError(
        f"the converted GGUF isn't this model: {near.kld:.2g} nats per token from transformers' "
        f"predictions, {near.same_top:.0%} of the likeliest tokens the same (config.json has: "
        f"{suspects}){end}"
    )


def special_parts(config: Mapping[str, Any]) -> list[str]:
    """Return what config.json asks for that runtimes may lack, in words."""
    text, found = text_part(config), []
    if window := sliding_window(text):
        found.append(f"a sliding window of {window}")
    for kind, _ in rope_scalings(text):
        if kind != "default" and kind.isidentifier():
            found.append(f"rope scaling {kind}")
    activation = text.get("hidden_act") or text.get("hidden_activation")
    if isinstance(activation, str) and activation.isidentifier():
        found.append(f"activation {activation}")
    return list(dict.fromkeys(found))


def measurements(
    near: Comparison, far: Comparison | None, size: int, reach: Reach | None
) -> list[Measurement]:
    """Return the numbers as measurements. size: tokens of a short window."""
    protocol = f"16-bit GGUF beside transformers, last {SCORED} of windows of {size}"
    rows = [
        Measurement(
            "convert_kld_mean", near.kld, "nats", "measured", n=near.positions, protocol=protocol
        ),
        Measurement(
            "convert_same_top", near.same_top, "1", "measured", n=near.positions, protocol=protocol
        ),
    ]
    if far and reach:
        protocol = f"the same, one window of {reach.tokens + BEYOND}: {reach.what}"
        rows.append(
            Measurement(
                "convert_kld_long", far.kld, "nats", "measured", n=far.positions, protocol=protocol
            )
        )
    return rows


STAGE = Stage(
    "conversion",
    1,
    run,
    tools=("llama-cpp-python", "torch", "transformers"),
    metrics=("convert_kld_mean", "convert_kld_long", "convert_same_top"),
    optional=True,
    title="Check the conversion",
)
