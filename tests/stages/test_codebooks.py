"""Types with codebooks: choosing codewords against trying them all."""

import itertools

import numpy as np
import pytest
import torch

from sintra.stages.rounding.codebook import OCTET, sweep_octets
from sintra.stages.rounding.codebook_kernels import ROOM, choose
from sintra.stages.rounding.codebook_rows import CodebookRows
from sintra.stages.rounding.grids import GRIDS

BOOKS = [name for name, grid in GRIDS.items() if grid.codebook]


def octets(book, seed=0):
    """A metric of eight weights that pull at each other, as `choose` takes it."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(64, 8)))
    h = (x.T @ x / 64 + 0.8).float()
    return h, sweep_octets(h, book.width)


def chosen(book, x, scale, metric):
    """Codes of octets x (n, 8), and what is left of each in the metric."""
    upper, metrics = (a[0] for a in metric.arrays())
    codes, room = np.empty((len(x), OCTET), np.uint8), np.empty((ROOM, OCTET), np.float32)
    costs = [
        choose(row, np.float32(scale), upper, metrics, book.arrays, own, room)
        for row, own in zip(x, codes, strict=True)
    ]
    return codes.astype(np.int64), np.array(costs)


def best_of_all(book, x, scale, h):
    """The least r M r' of any codeword with any signs that the type can store, (n,)."""
    signs = np.array(list(itertools.product((1, -1), repeat=OCTET)))
    if book.even:
        signs = signs[(signs < 0).sum(1) % 2 == 0]
    sizes = np.array(book.sizes)[book.words]
    every = torch.from_numpy((scale * signs[:, None] * sizes).reshape(-1, OCTET)).float()
    own = ((every @ h) * every).sum(1)
    rows = torch.from_numpy(x)
    return np.array([float((own - 2 * every @ (h @ r)).min() + r @ h @ r) for r in rows])


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_S"])
def test_the_codeword_is_nearly_the_best_of_all(name):
    book = GRIDS[name].codebook
    h, metric = octets(book)
    x = np.random.default_rng(1).normal(0, 3, (40, OCTET)).astype(np.float32)
    codes, costs = chosen(book, x, 1.1, metric)
    left = torch.from_numpy(x - 1.1 * np.array(book.levels, np.float32)[codes])
    assert np.allclose(((left @ h) * left).sum(1), costs, rtol=1e-4)
    best = best_of_all(book, x, 1.1, h)
    assert (costs > best * 0.999).all()
    assert costs.mean() < 1.25 * best.mean()
    nearest = chosen(book, x, 1.1, sweep_octets(torch.eye(OCTET), book.width))[0]
    far = torch.from_numpy(x - 1.1 * np.array(book.levels, np.float32)[nearest])
    assert costs.mean() < 0.9 * ((far @ h) * far).sum(1).mean(), "the metric counts"


@pytest.mark.parametrize("name", BOOKS)
def test_a_codeword_is_found_again_and_signs_obey(name):
    book = GRIDS[name].codebook
    _, metric = octets(book)
    rng = np.random.default_rng(2)
    words = book.words[rng.integers(0, len(book.words), (30, OCTET // book.width))]
    minus = rng.integers(0, 2, (30, OCTET))
    if book.even:
        minus[:, 7] = minus[:, :7].sum(1) % 2
    exact = np.array(book.sizes, np.float32)[words.reshape(30, OCTET)] * (1 - 2 * minus)
    codes, costs = chosen(book, exact.astype(np.float32), 1, metric)
    assert (np.array(book.levels)[codes] == exact).all()
    assert np.allclose(costs, 0)
    x = rng.normal(0, 3, (200, OCTET)).astype(np.float32)
    codes, _ = chosen(book, x, 1, metric)
    book.packed(codes)  # raises where the type can't store them
    codes[0, 0] = len(book.levels) - 1 - codes[0, 0]
    if book.even:
        with pytest.raises(ValueError, match="not codewords"):
            book.packed(codes)


@pytest.mark.parametrize("name", BOOKS)
def test_nothing_is_chosen_of_a_scale_of_zero(name):
    book = GRIDS[name].codebook
    _, metric = octets(book)
    codes, _ = chosen(book, np.full((1, OCTET), 0.5, np.float32), 0, metric)
    book.packed(codes)
    rows = CodebookRows(book, torch.device("cpu"))
    found = rows.choose(torch.full((1, OCTET), 0.5), torch.zeros(1), metric, 0)
    assert (found.codes.numpy() == codes).all()
