"""What every planner is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sintra.hardware.estimate import Shape
from sintra.matrices import Sizes
from sintra.types import Candidate, Measurement, Proposal, Recipe

SCREEN = 4  # the part of the search text that a screen reads: one in so many windows
Shares = Mapping[str, float]
Pair = Callable[[Recipe, Recipe], tuple[float, float] | None]


@dataclass(frozen=True)
class Seen:
    """A recipe's numbers on one text: metric -> measurement."""

    recipe: Recipe
    level: str
    metrics: Mapping[str, Measurement]


@dataclass(frozen=True)
class History:
    """What is known so far, in the order in which it was proposed.

    candidates: what was measured; layers: the model's blocks, once known; built, failed: recipes that were made without
    being measured, or could not be; bytes_of: the files of those; sizes, shape: the bytes of any mix, the
    architecture; distortion: uniform recipe -> tensor -> {"output", "diagonal", "weights"}; seen: the numbers text by text;
    tried: (recipe, level) of every proposal; last: the last round's proposals; paired: the mean difference of two recipes'
    KLD on the search text and its standard error, bootstrapped over windows.
    """

    candidates: tuple[Candidate, ...]
    layers: int | None
    built: frozenset[Recipe] = frozenset()
    failed: frozenset[Recipe] = frozenset()
    bytes_of: Mapping[Recipe, int] = field(default_factory=dict)
    sizes: Sizes | None = None
    shape: Shape | None = None
    distortion: Mapping[Recipe, Mapping[str, Shares]] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    tried: frozenset[tuple[Recipe, str]] = frozenset()
    last: tuple[Proposal, ...] = ()
    paired: Pair = lambda a, b: None

    def kld(self, recipe: Recipe, level: str) -> Measurement | None:
        """The mean KLD of a recipe on a text."""
        return next((s.metrics["kld_mean"] for s in self.seen if s.recipe == recipe and s.level == level), None)
