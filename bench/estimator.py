"""Decode speed as the estimator predicts it beside what was published.

    python bench/estimator.py [--csv FILE] [--loo] [--profiles]

Without --loo the fit uses this repository's points
(sintra/hardware/estimate/published_tps.csv), and a row
of FILE that is one of them is predicted from the others: no row ever helps to predict itself. With
--loo, FILE's rows alone are used, each predicted from the rest. --profiles prints what the fit says
of each profile, in the form of conf/hardware. Last line: median and mean of |predicted / measured -
1|, and the share of measured speeds inside the 90 % interval, as fractions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sintra.core.errors import UserError
from sintra.hardware.estimate.fit import Fit, fit, leave_one_out, scores
from sintra.hardware.estimate.published import PUBLISHED, Point, read
from sintra.hardware.profiles import bandwidths

ROOT = Path(__file__).resolve().parent.parent


def predictions(points: list[Point], published: list[Point]) -> list[tuple[float, float, float]]:
    """Each point from the published ones without itself."""
    whole = fit(published)
    return [
        (fit([p for p in published if p != x]) if x in published else whole).predict(x)
        for x in points
    ]


def prefill(points: list[Point], published: list[Point]) -> list[float]:
    """|predicted / measured - 1| of prompt processing, from the device's other points, where it has
    some.
    """
    errors = []
    for point in points:
        others = [
            p.pp * p.weights
            for p in published
            if p.pp and p != point and (p.profile, p.backend) == (point.profile, point.backend)
        ]
        if point.pp and others:
            errors.append(abs(sum(others) / len(others) / point.weights / point.pp - 1))
    return sorted(errors)


def show_profiles(found: Fit, points: list[Point]) -> None:
    """The fitted lines of each profile."""
    for profile, backend, bandwidth in sorted(
        {(p.profile, p.backend, p.bandwidth) for p in points}
    ):
        device = found.device(profile, backend, bandwidth)
        print(
            f"{profile} ({backend}): efficiency: {device.efficiency:.3f}, efficiency_spread: "
            f"{device.spread:.2f}, overhead_us_per_layer: {device.overhead_s * 1e6:.3g}, "
            f"overhead_spread: {device.overhead_spread:.2f}, bytes_per_weight: "
            f"{device.bytes_per_weight:.3f}"
        )


def main() -> int:
    """Predict and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, default=PUBLISHED)
    parser.add_argument("--loo", action="store_true", help="leave-one-out on FILE's rows alone")
    parser.add_argument(
        "--profiles", action="store_true", help="print each profile's fitted numbers"
    )
    options = parser.parse_args()
    known = bandwidths(ROOT)
    try:
        points, skipped = read(options.csv, known)
    except UserError as error:
        print(f"estimator: {error}", file=sys.stderr)
        return 2
    published, _ = read(PUBLISHED, known)
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)
    if options.profiles:
        show_profiles(fit(published), published)
    if not points:
        print("estimator: no row can be predicted", file=sys.stderr)
        return 2
    found = leave_one_out(points) if options.loo else predictions(points, published)
    print(
        f"{'device':<38}{'model':<28}{'type':<8}{'measured':>9}{'predicted':>10}  90 % interval   "
        "  error"
    )
    for point, (value, low, high) in zip(points, found, strict=True):
        print(
            f"{point.device[:37]:<38}{point.model[:27]:<28}{point.kind:<8}"
            f"{point.tps:>9.2f}{value:>10.2f}  "
            f"{low:>7.2f} to {high:<8.2f}{value / point.tps - 1:>+7.3f}"
        )
    errors = prefill(points, published)
    if errors:
        print(
            f"prompt processing, {len(errors)} rows of devices with another: median "
            f"{errors[len(errors) // 2]:.3f}"
        )
    print(" ".join(f"{name}={value:.4f}" for name, value in scores(points, found).items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
