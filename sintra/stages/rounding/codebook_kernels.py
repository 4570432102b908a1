"""The inner loops of compensated rounding with codebooks (see sintra.stages.rounding.tiles).

Eight weights, an octet, are chosen together, in a metric M of their own: the best is that of the
smallest r M r', where r is what is left of them. M is the curvature that remains when all later
columns absorb what they can, or, in a sweep, the octet's own block of H. Signs and a point of sizes
come from rounding weight after weight, each later one absorbing the errors before it; the codewords
near that point are tried in the metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sintra.stages.rounding.codebook import OCTET
from sintra.stages.rounding.tiles import HALF, ONE, TILE, TWO, ZERO, compiled, load, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sintra.stages.rounding.codebook import BookArrays

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]
    Codes = NDArray[np.uint8]

LEFT, SIGNED, REST, PULL, SCRATCH, BASE = range(6)  # rows of the room for one octet
ROOM = 6


@compiled
def measure_octet(
    rest: Floats, metric: Floats, first: int, last: int, base: Floats, pull: Floats
) -> np.float32:
    """Return r M r' of what is left of an octet (8,), and write r M to `pull` (8,).

    base: r M of the weights before `first`, (8,); nothing is left of those from `last` on.
    """
    for k in range(OCTET):
        pull[k] = base[k]
    for i in range(first, last):
        r = rest[i]
        for k in range(OCTET):
            pull[k] += r * metric[i, k]
    cost = ZERO
    for k in range(OCTET):
        cost += pull[k] * rest[k]
    return cost


@compiled
def best_flip(x: Floats, rest: Floats, metric: Floats, pull: Floats) -> tuple[int, np.float32]:
    """Return the weight of an octet whose other sign costs least, and by how much r M r' grows."""
    at, least = 0, np.float32(np.inf)
    for i in range(OCTET):
        move = TWO * (x[i] - rest[i])
        growth = move * (TWO * pull[i] + move * metric[i, i])
        if growth < least:
            at, least = i, growth
    return at, least


@compiled
def find_point(
    first: int, scale: np.float32, upper: Floats, book: BookArrays, room: Floats
) -> tuple[int, bool]:
    """Round one codeword's weights one after another, without regard to which codewords there are.

    first: its first weight in the octet; upper: (8, 8), as of `choose`. Returns the point and
    whether the number of minus signs is odd. Writes the scale with each weight's sign to SIGNED.
    """
    sizes, width = book.sizes, book.words.shape[1]
    left, signed = room[SCRATCH], room[SIGNED]
    inverse = ONE / scale if scale != ZERO else ZERO
    point, digit, odd = 0, 1, False
    for i in range(first, first + width):
        left[i] = room[LEFT, i]
    for i in range(first, first + width):
        at = left[i] * inverse
        index = 0
        for k in range(len(sizes) - 1):
            index += 1 if abs(at) > (sizes[k] + sizes[k + 1]) * HALF else 0
        point += digit * index
        digit *= len(sizes)
        signed[i] = -scale if at < ZERO else scale
        odd = odd != (at < ZERO)
        error = (left[i] - signed[i] * sizes[index]) / upper[i, i]
        for j in range(i + 1, first + width):
            left[j] -= upper[i, j] * error
    return point, odd


@compiled
def choose(
    x: Floats,
    scale: np.float32,
    upper: Floats,
    metrics: Floats,
    book: BookArrays,
    codes: Codes,
    room: Floats,
) -> np.float32:
    """Write good codes to an octet of weights x (8,), and return their r M r'.

    upper: upper Cholesky factor of the inverse of M, (8, 8); metrics: for each codeword of the
    octet the metric when later codewords absorb errors, (codewords, 8, 8), for the last one M; it
    is zero where a weight has no part in it. codes: (8,); room: (ROOM, 8), where REST is what is
    left of x.
    """
    width, count = book.words.shape[1], len(book.sizes)
    left, signed, rest, pull = room[LEFT], room[SIGNED], room[REST], room[PULL]
    base = room[BASE]
    for i in range(OCTET):
        left[i] = x[i]
        rest[i] = base[i] = ZERO
    odd, cost = False, ZERO
    for part in range(len(metrics)):
        first, last, metric = part * width, (part + 1) * width, metrics[part]
        if part > 0:
            measure_octet(rest, metric, 0, first, base, pull)
            base[:] = pull
        point, own = find_point(first, scale, upper, book, room)
        odd = odd != own
        flips = book.even and odd and part == len(metrics) - 1
        best, cost = 0, np.float32(np.inf)
        for number in range(book.near.shape[1]):
            word = int(book.near[point, number])
            for i in range(width):
                rest[first + i] = x[first + i] - signed[first + i] * book.values[word, i]
            found = measure_octet(rest, metric, first, last, base, pull)
            if flips:
                found += best_flip(x, rest, metric, pull)[1]
            if found < cost:
                best, cost = word, found
        for i in range(first, last):
            size = book.words[best, i - first]
            codes[i] = count - 1 - size if signed[i] * scale < ZERO else count + size
            value = signed[i] * book.values[best, i - first]
            rest[i] = x[i] - value
            error = (left[i] - value) / upper[i, i]
            for j in range(i + 1, OCTET):
                left[j] -= upper[i, j] * error
    metric = metrics[len(metrics) - 1]
    measure_octet(rest, metric, OCTET - width, OCTET, base, pull)
    at, growth = best_flip(x, rest, metric, pull)
    if book.even and odd:
        flip(at, x, codes, count, rest)
    elif not book.even and growth < ZERO:
        flip(at, x, codes, count, rest)
        cost += growth
    return cost


@compiled
def flip(at: int, x: Floats, codes: Codes, count: int, rest: Floats) -> None:
    """Give one weight of an octet the other sign; count: of sizes."""
    codes[at] = 2 * count - 1 - codes[at]
    rest[at] = TWO * x[at] - rest[at]


@compiled
def gptq_octets(
    left: Floats,
    upper: Floats,
    groups: Ints,
    scale: Floats,
    book: BookArrays,
    octets: tuple[Floats, Floats],
    codes: Codes,
    errors: Floats,
) -> None:
    """Round some columns octet after octet; each later one absorbs the errors before it.

    left: weights, (n, rows), not changed; upper: of the inverse of H, (n, n); groups: the columns'
    groups, (n,); scale: (groups of a row, rows); octets: of each octet, what `choose` takes.
    Writes codes, (n, rows), and errors divided by the diagonal, (n, rows).
    """
    count, rows = left.shape
    block = np.empty((count, TILE), np.float32)
    error = np.empty((count, TILE), np.float32)
    chosen = np.empty((count, TILE), np.uint8)
    scales = np.empty((len(scale), TILE), np.float32)
    x, own = np.empty(OCTET, np.float32), np.empty(OCTET, np.uint8)
    values, room = np.empty((OCTET, TILE), np.float32), np.empty((ROOM, OCTET), np.float32)
    for start in range(0, rows, TILE):
        load(left, start, block)
        load(scale, start, scales)
        for first in range(0, count, OCTET):
            s, number = scales[groups[first]], first // OCTET
            for r in range(TILE):
                for k in range(OCTET):
                    x[k] = block[first + k, r]
                choose(x, s[r], octets[0][number], octets[1][number], book, own, room)
                for k in range(OCTET):
                    chosen[first + k, r] = own[k]
                    values[k, r] = x[k] - room[REST, k]
            for k in range(OCTET):
                i = first + k
                e, inverse = error[i], ONE / upper[i, i]
                for r in range(TILE):
                    e[r] = (block[i, r] - values[k, r]) * inverse
                for j in range(i + 1, count):
                    factor, later = upper[i, j], block[j]
                    for r in range(TILE):
                        later[r] -= factor * e[r]
        save(error, start, errors)
        save(chosen, start, codes)


@compiled
def wish_of_octet(weights: Floats, slope: Floats, upper: Floats, wish: Floats) -> None:
    """Write where an octet would go if it were free: weights + slope inv(H); all (8, TILE).

    upper: upper Cholesky factor of the inverse of the octet's block of H, (8, 8).
    """
    along = np.empty(TILE, np.float32)
    for k in range(OCTET):
        for r in range(TILE):
            wish[k, r] = weights[k, r]
    for i in range(OCTET):
        for r in range(TILE):
            along[r] = ZERO
        for k in range(i, OCTET):
            for r in range(TILE):
                along[r] += upper[i, k] * slope[k, r]
        for k in range(i, OCTET):
            for r in range(TILE):
                wish[k, r] += upper[i, k] * along[r]


@compiled
def fit_words(
    codes: Codes,
    weights: Floats,
    d: Floats,
    sub: Floats,
    h: Floats,
    slope: Floats,
    book: BookArrays,
    octets: tuple[Floats, Floats],
) -> None:
    """Move each octet of a tile to better codewords given all others, where there are any.

    codes: (chunk, TILE), changed in place; weights: the rounded ones, (chunk, TILE), replaced by
    the new ones; d: (blocks, TILE); sub: (groups, TILE); h: (chunk, chunk); slope: (chunk, TILE),
    of columns still to come kept up to date; octets: of each octet, what `choose` takes.
    """
    count = len(codes)
    block, group = count // len(d), count // len(sub)
    wish, moves = np.empty((OCTET, TILE), np.float32), np.empty((OCTET, TILE), np.float32)
    x, own = np.empty(OCTET, np.float32), np.empty(OCTET, np.uint8)
    room = np.empty((ROOM, OCTET), np.float32)
    for first in range(0, count, OCTET):
        last, number = first + OCTET, first // OCTET
        upper, metrics = octets[0][number], octets[1][number]
        wish_of_octet(weights[first:last], slope[first:last], upper, wish)
        for r in range(TILE):
            for k in range(OCTET):
                x[k] = wish[k, r]
                room[REST, k] = x[k] - weights[first + k, r]
                moves[k, r] = ZERO
            room[BASE] = ZERO
            before = measure_octet(
                room[REST], metrics[len(metrics) - 1], 0, OCTET, room[BASE], room[PULL]
            )
            scale = d[first // block, r] * sub[first // group, r]
            if choose(x, scale, upper, metrics, book, own, room) < before:
                for k in range(OCTET):
                    codes[first + k, r] = own[k]
                    value = x[k] - room[REST, k]
                    moves[k, r] = value - weights[first + k, r]
                    weights[first + k, r] = value
        for k in range(OCTET):
            for j in range(last, count):
                factor, later = h[first + k, j], slope[j]
                for r in range(TILE):
                    later[r] -= factor * moves[k, r]


@compiled
def fit_octets(
    codes: Codes,
    d: Floats,
    sub: Floats,
    slope: Floats,
    h: Floats,
    levels: Floats,
    book: BookArrays,
    octets: tuple[Floats, Floats],
    change: Floats,
) -> None:
    """Fit every octet of a chunk of columns, whole blocks, to its scales.

    codes: (chunk, rows), changed in place; d: (blocks, rows); sub: (groups, rows); slope: (w -
    rounded weights) H, (chunk, rows), not changed; h: (chunk, chunk); levels: the values of the
    codes; octets: as of `fit_words`. Adds to the change of the rounded weights, (chunk, rows).
    """
    count, rows = codes.shape
    block, group = count // len(d), count // len(sub)
    chosen = np.empty((count, TILE), np.uint8)
    weights = np.empty((count, TILE), np.float32)
    local = np.empty((count, TILE), np.float32)
    blocks = np.empty((len(d), TILE), np.float32)
    subs = np.empty((len(sub), TILE), np.float32)
    for start in range(0, rows, TILE):
        size = min(TILE, rows - start)
        load(d, start, blocks)
        load(sub, start, subs)
        load(slope, start, local)
        for i in range(count):
            for r in range(TILE):
                chosen[i, r] = codes[i, start + r] if r < size else 0
                weights[i, r] = blocks[i // block, r] * subs[i // group, r] * levels[chosen[i, r]]
            for r in range(size):
                change[i, start + r] -= weights[i, r]
        fit_words(chosen, weights, blocks, subs, h, local, book, octets)
        for i in range(count):
            for r in range(size):
                change[i, start + r] += weights[i, r]
        save(chosen, start, codes)
