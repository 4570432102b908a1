"""What every planner is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Measurement, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.hardware.estimate.estimate import Shape

ADVISER = "language model"  # the author of what was proposed on its advice
EXPLORER = (
    "forced exploration"  # and of what is measured in its stead when it goes round in circles
)
Shares = Mapping[str, float]
Ask = Callable[[str, str, dict[str, Any]], dict[str, Any] | None]
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

    candidates: what was measured; layers: the model's blocks, once known; failed: recipes that
    could not be made; bytes_of: the files of those that were made without being measured; sizes,
    shape: the bytes of any mix, the architecture; distortion: uniform recipe -> tensor ->
    {"output", "diagonal", "weights"}; seen: the numbers text by text; tried: (recipe, level) of
    every proposal; last: the last round's proposals; paired: the mean difference of two recipes'
    KLD on the search text and its standard error, bootstrapped over windows. advice: variants
    measured on a language model's advice; architecture, knowledge: the model's, and what is known
    of it; past: similar studies, in words; lessons: what they taught; influence: each block's
    (sintra.formats.runtime.blocks.influence), where the curvature was measured; pockets: depths at which blocks of
    this architecture lose least, by conf/arch; ask: the language model, (system, user, schema) ->
    answer or None on trouble, where the study has one; say: a line for the user; hush: ask no more
    in this run.
    """

    candidates: tuple[Candidate, ...]
    layers: int | None
    failed: frozenset[Recipe] = frozenset()
    bytes_of: Mapping[Recipe, int] = field(default_factory=dict)
    sizes: MixSizes | None = None
    shape: Shape | None = None
    distortion: Mapping[Recipe, Mapping[str, Shares]] = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    tried: frozenset[tuple[Recipe, str]] = frozenset()
    last: tuple[Proposal, ...] = ()
    paired: Pair = lambda a, b: None
    advice: int = 0
    architecture: str = ""
    knowledge: tuple[str, ...] = ()
    past: tuple[dict[str, Any], ...] = ()
    lessons: tuple[Lesson, ...] = ()
    influence: tuple[float, ...] = ()
    pockets: tuple[float, ...] = ()
    ask: Ask | None = None
    say: Callable[[str], None] = lambda text: None
    hush: Callable[[], None] = lambda: None

    def kld(self, recipe: Recipe, level: str) -> Measurement | None:
        """The mean KLD of a recipe on a text."""
        return next(
            (s.metrics["kld_mean"] for s in self.seen if s.recipe == recipe and s.level == level),
            None,
        )


@dataclass(frozen=True)
class Lesson:
    """classes: class of tensors -> ((depth from 0 to 1, log sensitivity beside the mean), ...), by
    depth; factors: type -> log factor; weight: how similar its model is, from 0 to 1.
    """

    classes: Mapping[str, tuple[tuple[float, float], ...]]
    factors: Mapping[str, float]
    bend: float
    weight: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """For the history."""
        return {"classes": self.classes, "factors": self.factors, "bend": self.bend}

    @staticmethod
    def of(data: dict[str, Any], weight: float) -> Lesson:
        """From its JSON form."""
        classes = {
            str(k): tuple((float(d), float(a)) for d, a in v) for k, v in data["classes"].items()
        }
        return Lesson(
            classes,
            {str(t): float(m) for t, m in data["factors"].items()},
            float(data["bend"]),
            weight,
        )
