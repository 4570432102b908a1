"""Say whether the 16-bit GGUF is the model: what was compared, and what the converter warned of."""

from __future__ import annotations

from sintra.build.graph import Graph
from sintra.core.artifact import Artifact, Failure
from sintra.core.types import Measurement
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store
from sintra.study.json_types import ConversionJson


def conversion_json(graph: Graph, store: Store) -> ConversionJson | None:
    """Return how far the GGUF is from the original; None where that wasn't compared."""
    step = graph.conversion()
    outcome = step.outcome(store) if step else None
    if isinstance(outcome, Failure):
        return {"reason": outcome.message}
    if not isinstance(outcome, Artifact):
        return None
    rows = {m.metric: m for m in parse_measurements(store.read_json(outcome, MEASUREMENTS_FILE))}
    near, far = rows["convert_kld_mean"], rows.get("convert_kld_long")
    found: ConversionJson = {"kld_mean": near.value, "tokens": near.n or 0}
    if far:
        found |= {"kld_long": far.value, "long": _reach(far)}
    return found


def _reach(far: Measurement) -> str:
    """Return what the long window reaches beyond, as the probe's protocol has it."""
    return far.protocol.partition(": ")[2]


def conversion_words(found: ConversionJson) -> str:
    """Return the comparison in a sentence."""
    if "reason" in found:
        return f"the GGUF wasn't compared with the original: {found['reason']}"
    beyond = f", {found['kld_long']:.1g} with {found['long']}" if "kld_long" in found else ""
    return (
        f"the 16-bit GGUF is {found['kld_mean']:.1g} nats from the original in transformers, over "
        f"{found['tokens']} tokens{beyond}"
    )


def warning_words(warnings: list[str]) -> str:
    """Return what the converter warned of, in a sentence."""
    return f"llama.cpp's converter warned: {'; '.join(warnings)}"
