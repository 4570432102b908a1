"""H = X'X of a layer's inputs as compensated rounding needs it: damped, scaled and factored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


@dataclass(frozen=True)
class CompensationOptions:
    """How a matrix is rounded."""

    damping: float = 0.01  # share of H's mean diagonal that is added to the diagonal
    sweeps: int = 4  # passes of fitting after GPTQ's
    lazy: int = 128  # columns between full updates: a divisor or multiple of the grid's block
    ordered: bool = True  # whether GPTQ takes the largest diagonal first


class DampedHessian:
    """H, damped and divided by its mean diagonal, and what GPTQ needs of it.

    It is computed once for all rows of a tensor.
    """

    h: Tensor
    """(columns, columns) float32."""
    ordered: bool
    """Whether GPTQ takes the largest diagonal first."""
    factors: dict[int, Factor]
    """Columns that are taken together -> the factor; made by `factored`."""

    def __init__(self, h: NDArray[np.float32], options: CompensationOptions) -> None:
        """Damp and factor H (columns, columns)."""
        self.h = damped_hessian(h, options.damping).to(compute_device())
        self.ordered, self.factors = options.ordered, {}

    def factored(self, together: int = 1) -> Factor:
        """Return what GPTQ needs to take so many columns at a time; made once.

        together: a divisor of the columns, at most OCTET.
        """
        if together not in self.factors:
            self.factors[together] = Factor.of(self.h, together, self.ordered)
        return self.factors[together]


class Factor(NamedTuple):
    """H's inverse, factored, in GPTQ's order of columns."""

    order: Tensor  # (columns,) int64
    upper: Tensor  # upper Cholesky factor of the inverse of H in that order, (columns, columns)

    @staticmethod
    def of(h: Tensor, together: int, ordered: bool) -> Factor:
        """Factor H (columns, columns); of columns taken together the order stays."""
        weight = h.diagonal().reshape(-1, together).sum(1)
        natural = torch.arange(len(weight), device=h.device)
        runs = weight.argsort(descending=True, stable=True) if ordered else natural
        within = torch.arange(together, device=h.device)
        order = (runs[:, None] * together + within).reshape(-1)
        # H = R R' with R upper, so R's inverse is the upper Cholesky factor of H's inverse.
        flipped = h[order][:, order].double().flip(0, 1)
        r = torch.linalg.cholesky(flipped).flip(0, 1)
        eye = torch.eye(len(r), dtype=torch.float64, device=r.device)
        return Factor(order, torch.linalg.solve_triangular(r, eye, upper=True).float())


def compute_device() -> str:
    """Return the device of the arithmetic: "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def damped_hessian(h: NDArray[np.float32], share: float) -> Tensor:
    """Return H divided by its mean diagonal, with a share of that mean added to the diagonal.

    The identity where there is no input at all. (columns, columns) float32.
    """
    damped = torch.tensor(h, dtype=torch.float32)
    mean = float(damped.diagonal().double().mean())
    if mean <= 0:
        return torch.eye(len(damped))
    damped /= mean
    damped.diagonal().add_(share)
    return damped
