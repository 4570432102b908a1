"""The language model that the planner of a study may ask, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sintra.build.graph import Graph
from sintra.core.types import Proposal
from sintra.planning.architectures import knowledge
from sintra.planning.state import ADVISER, EXPLORER, Adviser, ignore_line
from sintra.store.store import Store

if TYPE_CHECKING:
    from sintra.planning.llm.advisor import Advisor
    from sintra.planning.llm.budget import Spending

ADVISED_PLANNERS = ("llm", "hybrid")


class AdviserSession:
    """A run's use of the language model; after trouble it is asked no more in this run."""

    def __init__(
        self,
        notify: Callable[[str], None] | None = None,
        spending: list[Spending] | None = None,
    ) -> None:
        """notify: prints a line for the user; None in a dry run, which only reads kept replies.

        spending: what the run has spent, an entry for each reply; each new one is added.
        """
        self.notify = notify or ignore_line
        self.live = notify is not None
        self.spending = [] if spending is None else spending
        self._advisor: Advisor | None = None  # opened when a planner first needs it

    def adviser(
        self, graph: Graph, store: Store, architecture: str, proposals: Sequence[Proposal]
    ) -> Adviser:
        """Return what a planner is given of it. Raises UserError without a usable endpoint.

        proposals: all of the study so far.
        """
        evaluations = sum(
            p.author in (ADVISER, EXPLORER) and p.level == "search" for p in proposals
        )
        if graph.study.planner.name not in ADVISED_PLANNERS:
            return Adviser(notify=self.notify, evaluations=evaluations)
        if self._advisor is None:
            self._advisor = self._open(graph, store)
        return Adviser(
            ask=self._advisor.ask,
            stop_asking=self._advisor.stop_asking,
            notify=self.notify,
            knowledge=knowledge(graph.root, architecture),
            evaluations=evaluations,
        )

    def _open(self, graph: Graph, store: Store) -> Advisor:
        from sintra.planning.llm.advisor import Advisor  # not on the no-op path

        folder = store.root / "studies" / graph.study.id
        replies = store.root / "meta" / "replies"
        advisor = Advisor.of(graph.study.planner, folder, replies, self.notify, self.live)
        advisor.spending = self.spending
        return advisor
