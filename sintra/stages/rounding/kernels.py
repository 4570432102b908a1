"""The inner loops of compensated rounding on a CPU (see sintra.stages.rounding.tiles)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sintra.stages.rounding.tiles import HALF, ONE, TILE, TWO, ZERO, compiled, load, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]
    Codes = NDArray[np.uint8]

SMALL, STEPS = np.float32(2**-14), np.float32(2**24)  # of halves: least normal; 1 / step below it
LARGEST = np.float32(65504)  # of halves


@compiled
def nearest_of_few(
    x: Floats, scale: Floats, offset: Floats, levels: Floats, codes: Codes, values: Floats
) -> None:
    """Do as `nearest` for levels at any distances: each is compared with all rows at once."""
    at, above = np.empty(TILE, np.float32), np.zeros(TILE, np.float32)
    for r in range(TILE):
        at[r] = ZERO if scale[r] == ZERO else (x[r] - offset[r]) / scale[r]
        values[r] = levels[0]
    for k in range(1, len(levels)):
        level, middle = levels[k], (levels[k - 1] + levels[k]) * HALF
        for r in range(TILE):
            higher = at[r] > middle
            values[r] = level if higher else values[r]
            above[r] += ONE if higher else ZERO
    for r in range(TILE):
        codes[r] = np.uint8(np.int32(above[r]))
        values[r] = scale[r] * values[r] + offset[r]


@compiled
def nearest(
    x: Floats, scale: Floats, offset: Floats, levels: Floats, codes: Codes, values: Floats
) -> None:
    """Write the nearest codes to weights, and what the codes stand for; all (TILE,).

    levels: the values of the codes, ascending; 1 apart, or else few.
    """
    first, last = levels[0], np.float32(len(levels) - 1)
    if levels[1] - first == ONE:
        for r in range(TILE):
            at = ZERO if scale[r] == ZERO else (x[r] - offset[r]) / scale[r]
            code = min(max(np.ceil(at - first - HALF), ZERO), last)
            codes[r] = np.uint8(np.int32(code))
            values[r] = scale[r] * (first + code) + offset[r]
    else:
        nearest_of_few(x, scale, offset, levels, codes, values)


@compiled
def gptq_columns(
    left: Floats,
    upper: Floats,
    groups: Ints,
    scale: Floats,
    offset: Floats,
    levels: Floats,
    codes: Codes,
    errors: Floats,
) -> None:
    """Round some columns one after another; each later one absorbs the errors before it.

    left: weights, (n, rows), not changed; upper: of the inverse of H, (n, n); groups: the columns'
    groups, (n,); scale, offset: (groups of a row, rows). Writes codes, (n, rows), and errors
    divided by the diagonal, (n, rows).
    """
    count, rows = left.shape
    block = np.empty((count, TILE), np.float32)
    error = np.empty((count, TILE), np.float32)
    chosen, values = np.empty((count, TILE), np.uint8), np.empty(TILE, np.float32)
    scales = np.empty((len(scale), TILE), np.float32)
    offsets = np.empty((len(scale), TILE), np.float32)
    for start in range(0, rows, TILE):
        load(left, start, block)
        load(scale, start, scales)
        load(offset, start, offsets)
        for i in range(count):
            g, x, e = groups[i], block[i], error[i]
            nearest(x, scales[g], offsets[g], levels, chosen[i], values)
            inverse = ONE / upper[i, i]
            for r in range(TILE):
                e[r] = (x[r] - values[r]) * inverse
            for j in range(i + 1, count):
                factor, later = upper[i, j], block[j]
                for r in range(TILE):
                    later[r] -= factor * e[r]
        save(error, start, errors)
        save(chosen, start, codes)


@compiled
def residual(
    w: Floats, codes: Codes, scale: Floats, offset: Floats, levels: Floats, out: Floats
) -> None:
    """Write w less the rounded weights; w, codes, out: (columns, rows)."""
    columns, rows = w.shape
    group = columns // len(scale)
    for i in range(columns):
        a, b, at, x, y = scale[i // group], offset[i // group], codes[i], w[i], out[i]
        for r in range(rows):
            y[r] = x[r] - (a[r] * levels[at[r]] + b[r])


@compiled
def round_to_half(values: Floats, bits: NDArray[np.int32]) -> None:
    """Round to half precision, to even; NaN beyond its range.

    values: (TILE,), changed in place; bits: the same memory.
    """
    for r in range(TILE):
        x = values[r]
        if abs(x) < SMALL:
            values[r] = np.float32(np.rint(x * STEPS)) / STEPS
        else:
            odd = (bits[r] >> np.int32(13)) & np.int32(1)
            bits[r] = (bits[r] + np.int32(0xFFF) + odd) & np.int32(~0x1FFF)
            if not abs(values[r]) <= LARGEST:
                values[r] = np.float32(np.nan)


@compiled
def round_to_allowed(values: Floats, allowed: Floats) -> None:
    """Round (TILE,) to the nearest of some ascending values, all equally far apart or not."""
    first, last, step = allowed[0], allowed[-1], allowed[1] - allowed[0]
    if last - first == step * np.float32(len(allowed) - 1):
        for r in range(TILE):
            whole = np.float32(np.rint((values[r] - first) / step))
            values[r] = min(max(first + step * whole, first), last)
    else:
        for r in range(TILE):
            above = min(max(np.searchsorted(allowed, values[r]), 1), len(allowed) - 1)
            low, high = allowed[above - 1], allowed[above]
            values[r] = low if values[r] - low <= high - values[r] else high


@compiled
def add_product(factors: Floats, first: int, along: Floats, out: Floats) -> None:
    """Add to out (TILE,) the sum over i of factors[first + i] along[i]; along: (n, TILE)."""
    whole = len(along) // 4 * 4
    for i in range(0, whole, 4):
        k = first + i
        a, b, c, d = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        p, q, s, t = along[i], along[i + 1], along[i + 2], along[i + 3]
        for r in range(TILE):
            out[r] += a * p[r] + b * q[r] + c * s[r] + d * t[r]
    for i in range(whole, len(along)):
        factor, row = factors[first + i], along[i]
        for r in range(TILE):
            out[r] += factor * row[r]


@compiled
def add_curve(along: Floats, first: int, gram: Floats, curve: Floats) -> None:
    """Add to curve (TILE,) each row's along' gram along; along: (n, TILE).

    gram: symmetric; its rows and columns from `first` on count.
    """
    before, within = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for i in range(len(along)):
        start = i // 4 * 4
        before[:] = ZERO
        within[:] = ZERO
        add_product(gram[first + i], first, along[:start], before)
        add_product(gram[first + i], first + start, along[start : start + 4], within)
        for r in range(TILE):
            curve[r] += along[i, r] * (TWO * before[r] + within[r])


@compiled
def move_scale(
    values: Floats,
    along: Floats,
    first: int,
    gram: Floats,
    gains: Floats,
    cross: Floats,
    slope: Floats,
    allowed: Floats,
) -> None:
    """Move a scale of each row to its best allowed value, unless that raises the measure.

    The scale changes n quantities that the weights are linear in: weights, or groups' offsets.
    values: (TILE,), changed in place; along: the quantities' change for each unit of the scale, (n,
    TILE), overwritten; first: the first of them in gram, gains and cross; gram: their curvature,
    (all, all); gains: the measure's slope along each, (all, TILE); cross: what each does to the
    slope, (chunk, all); slope: (w - rounded weights) h, (chunk, TILE), kept up to date; allowed:
    what the scale may be, ascending; empty for halves.
    """
    curve, gain = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    wish = np.empty(TILE, np.float32)
    add_curve(along, first, gram, curve)
    for i in range(len(along)):
        for r in range(TILE):
            gain[r] += gains[first + i, r] * along[i, r]
    for r in range(TILE):
        wish[r] = values[r] + (gain[r] / curve[r] if curve[r] > ZERO else ZERO)
    if len(allowed) == 0:
        round_to_half(wish, wish.view(np.int32))
    else:
        round_to_allowed(wish, allowed)
    moved = False
    for r in range(TILE):
        move = wish[r] - values[r]
        if not move * (TWO * gain[r] - move * curve[r]) > ZERO:
            move = ZERO
        values[r] += move
        wish[r] = -move
        moved = moved or move != ZERO
    if moved:
        for i in range(len(along)):
            for r in range(TILE):
                along[i, r] *= wish[r]
        for j in range(len(slope)):
            add_product(cross[j], first, along, slope[j])


@compiled
def sum_groups(h: Floats, groups: int) -> tuple[Floats, Floats]:
    """Return h summed over the columns of each group, (chunk, groups), and then over rows, too."""
    count = len(h)
    group = count // groups
    cross, gram = np.zeros((count, groups), np.float32), np.zeros((groups, groups), np.float32)
    for j in range(count):
        for i in range(count):
            cross[j, i // group] += h[j, i]
        for g in range(groups):
            gram[j // group, g] += cross[j, g]
    return cross, gram


@compiled
def move_group(
    state: tuple[Floats, Floats, Floats, Floats],
    g: int,
    level: Floats,
    slope: Floats,
    curvature: tuple[Floats, Floats, Floats],
    allowed: tuple[Floats, Floats],
    along: Floats,
    gains: Floats,
) -> None:
    """Move the integers of group g: its scale, then its min. Arguments as of `fit_block`."""
    (d, m, sub, sub_min), (h, cross, gram) = state, curvature
    group = len(level) // len(sub)
    first, b = g * group, g * len(d) // len(sub)
    if len(allowed[0]) > 0:
        for i in range(group):
            for r in range(TILE):
                along[i, r] = d[b, r] * level[first + i, r]
        move_scale(sub[g], along[:group], first, h, slope, h, slope, allowed[0])
    if len(allowed[1]) > 0:
        sum_rows(slope[first : first + group], gains[g])
        along[0] = m[b]
        move_scale(sub_min[g], along[:1], g, gram, gains, cross, slope, allowed[1])


@compiled
def sum_rows(rows: Floats, out: Floats) -> None:
    """Write the sum of rows (n, TILE)."""
    out[:] = ZERO
    for i in range(len(rows)):
        for r in range(TILE):
            out[r] += rows[i, r]


@compiled
def fit_block(
    state: tuple[Floats, Floats, Floats, Floats],
    b: int,
    level: Floats,
    slope: Floats,
    curvature: tuple[Floats, Floats, Floats],
    allowed: tuple[Floats, Floats],
    halves: tuple[bool, bool],
    along: Floats,
    gains: Floats,
) -> None:
    """Move the scales and mins of block b: group by group the integers, then d and m.

    state: scales and mins of the tile's blocks, (blocks, TILE), and integers of its groups,
    (groups, TILE); level: the levels of the codes, (chunk, TILE); slope: (chunk, TILE); curvature:
    h, and it summed over groups (`sum_groups`); allowed: what the groups' scales and mins may be,
    empty where there are none; halves: whether the blocks have d and m; along: room of (chunk,
    TILE); gains: room of (groups, TILE).
    """
    (d, m, sub, sub_min), (h, cross, gram) = state, curvature
    groups, block = len(sub) // len(d), len(level) // len(d)
    group, first = block // groups, b * block
    for g in range(b * groups, (b + 1) * groups):
        move_group(state, g, level, slope, curvature, allowed, along, gains)
    any_half = allowed[0][:0]
    if halves[0]:
        for i in range(block):
            for r in range(TILE):
                along[i, r] = sub[(first + i) // group, r] * level[first + i, r]
        move_scale(d[b], along[:block], first, h, slope, h, slope, any_half)
    if halves[1]:
        for g in range(b * groups, (b + 1) * groups):
            sum_rows(slope[g * group : (g + 1) * group], gains[g])
        along[:groups] = sub_min[b * groups : (b + 1) * groups]
        move_scale(m[b], along[:groups], b * groups, gram, gains, cross, slope, any_half)


@compiled
def stored_weights(
    level: Floats, d: Floats, m: Floats, sub: Floats, sub_min: Floats, out: Floats
) -> None:
    """Write what a tile's levels and scales stand for; level, out: (chunk, TILE)."""
    block, group = len(level) // len(d), len(level) // len(sub)
    for i in range(len(level)):
        b, g = i // block, i // group
        for r in range(TILE):
            out[i, r] = d[b, r] * sub[g, r] * level[i, r] + m[b, r] * sub_min[g, r]


@compiled
def fit_codes(
    codes: Codes,
    weights: Floats,
    d: Floats,
    m: Floats,
    sub: Floats,
    sub_min: Floats,
    levels: Floats,
    h: Floats,
    slope: Floats,
) -> None:
    """Move each column of a tile to its best grid point given all others.

    codes: (chunk, TILE), written; weights: the rounded ones, (chunk, TILE), replaced by the new
    ones; d, m: (blocks, TILE); sub, sub_min: (groups, TILE); slope: (chunk, TILE).
    """
    block, group = len(codes) // len(d), len(codes) // len(sub)
    scale = np.empty(TILE, np.float32)
    offset = np.empty(TILE, np.float32)
    wish = np.empty(TILE, np.float32)
    values = np.empty(TILE, np.float32)
    for i in range(len(codes)):
        b, g = i // block, i // group
        old, inverse = weights[i], ONE / h[i, i]
        for r in range(TILE):
            scale[r] = d[b, r] * sub[g, r]
            offset[r] = m[b, r] * sub_min[g, r]
            wish[r] = old[r] + slope[i, r] * inverse
        nearest(wish, scale, offset, levels, codes[i], values)
        for r in range(TILE):
            wish[r] = values[r] - old[r]
            old[r] = values[r]
        for j in range(i + 1, len(codes)):
            factor, later = h[i, j], slope[j]
            for r in range(TILE):
                later[r] -= factor * wish[r]


@compiled
def fit_chunk(
    codes: Codes,
    d: Floats,
    m: Floats,
    sub: Floats,
    sub_min: Floats,
    slope: Floats,
    h: Floats,
    levels: Floats,
    allowed: tuple[Floats, Floats],
    halves: tuple[bool, bool],
    alone: bool,
    change: Floats,
) -> None:
    """Fit scales and mins, then codes that stand alone, of a chunk of columns: whole blocks.

    codes: (chunk, rows); d, m: (blocks, rows); sub, sub_min: (groups, rows); all changed in place;
    slope: (w - rounded weights) H, (chunk, rows); h: (chunk, chunk); levels: the values of the
    codes; allowed, halves: as of `fit_block`; alone: whether a code is a weight's own: if it isn't,
    codes stay, and the slope is brought up to date. Writes the change of the rounded weights,
    (chunk, rows).
    """
    count, rows = codes.shape
    level = np.empty((count, TILE), np.float32)
    old = np.empty((count, TILE), np.float32)
    new = np.empty((count, TILE), np.float32)
    local = np.empty((count, TILE), np.float32)
    along = np.empty((count, TILE), np.float32)
    chosen = np.empty((count, TILE), np.uint8)
    blocks = np.empty((len(d), TILE), np.float32)
    mins = np.empty((len(d), TILE), np.float32)
    subs = np.empty((len(sub), TILE), np.float32)
    sub_mins = np.empty((len(sub), TILE), np.float32)
    gains = np.empty((len(sub), TILE), np.float32)
    cross, gram = sum_groups(h, len(sub))
    for start in range(0, rows, TILE):
        load(d, start, blocks)
        load(m, start, mins)
        load(sub, start, subs)
        load(sub_min, start, sub_mins)
        load(slope, start, local)
        size = min(TILE, rows - start)
        for i in range(count):
            for r in range(TILE):
                level[i, r] = levels[codes[i, start + r]] if r < size else ZERO
        stored_weights(level, blocks, mins, subs, sub_mins, old)
        for b in range(len(d)):
            fit_block(
                (blocks, mins, subs, sub_mins),
                b,
                level,
                local,
                (h, cross, gram),
                allowed,
                halves,
                along,
                gains,
            )
        stored_weights(level, blocks, mins, subs, sub_mins, new)
        if alone:
            fit_codes(chosen, new, blocks, mins, subs, sub_mins, levels, h, local)
            save(chosen, start, codes)
        else:
            save(local, start, slope)
        for i in range(count):
            for r in range(TILE):
                new[i, r] -= old[i, r]
        save(new, start, change)
        save(blocks, start, d)
        save(mins, start, m)
        save(subs, start, sub)
        save(sub_mins, start, sub_min)
