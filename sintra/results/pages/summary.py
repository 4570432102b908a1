"""Sum up a result: the verdict in a sentence, the main numbers, and each limit."""

from __future__ import annotations

from dataclasses import dataclass

from sintra.results.pages.words import (
    DASH,
    KLD_SCALE,
    describe_aim,
    describe_kld,
    describe_limit,
    format_bytes,
    format_number,
    format_value,
    format_with_error,
    hide_folders,
    limits_held,
    measurements_by_metric,
    metric_label,
)
from sintra.results.result import model_file
from sintra.study.json_types import CandidateJson, ConstraintJson, MeasurementJson, ResultJson


@dataclass(frozen=True)
class LimitLine:
    """A limit of the goal and what the winner reaches."""

    words: str  # the limit in words
    state: str  # "holds", "missed" or "open"
    value: str  # the winner's value with its unit
    how: str  # "measured", or how it was estimated and between which values it lies


def verdict_sentence(result: ResultJson) -> str:
    """Return the study's outcome in one sentence."""
    winner = result["winner"]
    if winner is None:
        return f"Nothing was made: {hide_folders(result['reason'] or result['status'])}."
    variant = f"{winner['name']}, {format_bytes(model_file(winner)['bytes'])}"
    variant += _distance_words(winner)
    if result["status"] == "pass":
        held = limits_held(len(result["goal"]["constraints"]))
        start = f"{held[0].upper()}{held[1:]}: " if held else ""
        return f"{start}{variant}, is {describe_aim(result['goal'])} found."
    if winner["verdict"]["violated"]:
        metric, value, limit, _ = winner["verdict"]["violated"][0]
        return (
            f"No variant holds every limit. The nearest, {variant}, has "
            f"{metric_label(metric)} {format_value(metric, value)}; "
            f"the limit is {format_value(metric, limit)}."
        )
    open_metrics = ", ".join(map(metric_label, winner["verdict"]["unknown"]))
    return (
        f"The best so far is {variant}. Not yet decided: "
        f"{open_metrics or 'its quality on the report text'}."
    )


def kld_scale(result: ResultJson) -> str:
    """Return what the winner's KL divergence means, and the scale; "" where it has none."""
    winner = result["winner"]
    kld = measurements_by_metric(winner).get("kld_mean") if winner else None
    if kld is None:
        return ""
    scale = ", ".join(f"{value:g} {words}" for value, words in KLD_SCALE)
    return f"{format_number(kld['value'])} nats: {describe_kld(kld['value'])}. Scale: {scale}."


def _distance_words(winner: CandidateJson) -> str:
    kld = measurements_by_metric(winner).get("kld_mean")
    if kld is None:
        return ""
    divergence = format_with_error(kld["value"], kld.get("stderr"))
    return f", {divergence} nats per token from the 16-bit model"


def key_figures(result: ResultJson, original_bytes: int | None) -> list[tuple[str, str, str]]:
    """Return the winner's main numbers as (label, value, how it was obtained).

    original_bytes: size of the 16-bit model where it is known.
    """
    winner = result["winner"]
    if winner is None:
        return []
    measurements, size = measurements_by_metric(winner), model_file(winner)["bytes"]
    share = f"{100 * size / original_bytes:.0f} % of 16 bits" if original_bytes else "exact"
    figures = [("Size", format_bytes(size), share)]
    if kld := measurements.get("kld_mean"):
        value, _, error = format_with_error(kld["value"], kld.get("stderr")).partition(" ")
        figures.append(("KL divergence", value, f"{error} nats, {winner['decided_on']} text"))
    if top := measurements.get("same_top"):
        figures.append(("Same top token", f"{100 * top['value']:.1f} %", "measured"))
    if speed := measurements.get("device_tg_tps"):
        how = f"tokens/s, {describe_interval(speed)}"
        figures.append(("Generation", format_number(speed["value"]), how))
    if ram := measurements.get("device_ram_bytes"):
        figures.append(("Memory", format_bytes(ram["value"]), "estimated"))
    return figures


def describe_interval(measurement: MeasurementJson) -> str:
    """Return how a number was obtained and its 90 % interval where there is one."""
    metric = measurement["metric"]
    low, high = (
        format_value(metric, measurement[k]).removesuffix(" tokens/s") if k in measurement else ""
        for k in ("low", "high")
    )
    ends = f", {low} to {high}" if low else ""
    return f"{measurement['how']}{ends}"


def limit_lines(result: ResultJson) -> list[LimitLine]:
    """Return each limit with the winner's value, how it was obtained and whether it holds."""
    winner = result["winner"]
    return [_limit_line(limit, winner) for limit in result["goal"]["constraints"]]


def _limit_line(limit: ConstraintJson, winner: CandidateJson | None) -> LimitLine:
    metric = limit["metric"]
    measurement = measurements_by_metric(winner).get(metric) if winner else None
    return LimitLine(
        words=describe_limit(limit),
        state=_limit_state(metric, winner, measurement),
        value=_limit_value(metric, measurement),
        how=_describe_source(measurement),
    )


def _limit_state(
    metric: str, winner: CandidateJson | None, measurement: MeasurementJson | None
) -> str:
    if winner and metric in {violation[0] for violation in winner["verdict"]["violated"]}:
        return "missed"
    if winner is None or measurement is None or metric in winner["verdict"]["unknown"]:
        return "open"
    return "holds"


def _limit_value(metric: str, measurement: MeasurementJson | None) -> str:
    if measurement is None:
        return DASH
    if measurement.get("stderr") and "kld" in metric:
        return f"{format_with_error(measurement['value'], measurement['stderr'])} nats"
    return format_value(metric, measurement["value"])


def _describe_source(measurement: MeasurementJson | None) -> str:
    if measurement is None:
        return ""
    return "measured" if measurement["how"] == "measured" else describe_interval(measurement)
