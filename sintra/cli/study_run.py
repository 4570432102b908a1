"""What a run does for one study, in order: resolve its sources, plan each round, conclude.

Between two rounds doit builds the steps of the last one (sintra/cli/chain.py makes them tasks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sintra.build.console import format_seconds
from sintra.build.graph import Graph
from sintra.build.leftovers import sweep_once
from sintra.build.run_state import Run
from sintra.build.step import Step
from sintra.cli.steps import build_step
from sintra.cli.study_summary import print_result, remaining_work, round_summary, study_intro
from sintra.config import study
from sintra.config.tasks.files import check_tasks, runs_code
from sintra.core.errors import Transient
from sintra.core.types import Candidate
from sintra.hardware.boards import identity
from sintra.integrations.listeners.feed import Feed
from sintra.integrations.listeners.study_events import StudyEvents
from sintra.results import outputs, result, table
from sintra.store.files import remove_path
from sintra.study import candidates, pinning, round_files, rounds, sharing
from sintra.study.adviser import AdviserSession
from sintra.study.json_types import ResultJson
from sintra.study.round_files import Round
from sintra.study.variant_names import step_parts, step_titles, study_names
from sintra.study.workspace import Workspace

INDENT = " " * 8  # of what goes on in the next line
OnEnd = Callable[[str, str], None]  # of a study's name and status


class StudyRun:
    """One study in this run. Among others, `on_end` takes its result, and nothing is printed."""

    def __init__(
        self, workspace: Workspace, run: Run, feed: Feed, on_end: OnEnd | None = None
    ) -> None:
        self.workspace, self.run, self.on_end = workspace, run, on_end
        self.events = StudyEvents(workspace, feed)
        self.adviser = AdviserSession(run.say, run.spending)
        self.announced = False  # whether the user was told what is about to happen
        self.concluded = False  # whether the result is out
        self.delivered_at = 0.0  # when the best so far was last delivered, s of the run

    @property
    def fresh(self) -> bool:
        """Whether the study is to be planned from its start, whatever was recorded."""
        return self.workspace.config.refresh

    def recorded_rounds(self) -> list[Round]:
        """Return the rounds to go on from: none where the study begins anew or isn't resolved."""
        if self.fresh or not self.workspace.ready:
            return []
        return round_files.read_rounds(self.workspace)

    def announce(self) -> None:
        """Print what is about to happen, once, before anything takes long."""
        if self.announced:
            return
        self.announced = True
        name = self.workspace.study.id
        text = study_intro(self.workspace) if self.on_end is None else f"study   {name}"
        self.run.say(text, "study", study=name)

    def is_resolved(self) -> bool:
        """Return whether model and board are known and neither is to be renewed."""
        return not self.fresh and self.workspace.ready

    def resolve_sources(self) -> None:
        """Identify the board and pin the model, where that hasn't been done yet.

        Raises UserError or Transient.
        """
        store, config = self.workspace.store, self.workspace.config
        model, device = config.model, config.device
        self.announce()
        renew_board = self.fresh and device.name != study.LOCAL
        if not identity.is_resolved(store, device) or renew_board:
            self.run.say(f"board   {identity.resolve_board(store, device, self.run.say)}")
        renew_pin = self.fresh and pinning.pinned_hub(store, model.source, model.revision)
        if self.workspace.pinned() is None or renew_pin:
            pin = pinning.resolve_hub(store, model.source, model.revision)
            self.run.say(f"pinned  {pin.locator} at {pin.digest}")
            self.workspace = self.events.workspace = self.workspace.knowing_context()

    def is_planned(self, number: int) -> bool:
        """Return whether a round is recorded and counts."""
        if number == 1 and self.fresh:
            return False
        return round_files.read_round(round_files.round_path(self.workspace, number)) is not None

    def plan_round(self, number: int) -> None:
        """Ask the planner for a round, record it, and print it."""
        if number == 1:
            self.start_planning()
        graph = self.workspace.graph()
        recorded = round_files.read_rounds(self.workspace)[: number - 1]
        rounds.write_keys(self.workspace, graph, recorded)
        self.events.publish_rounds(graph, recorded)
        self.deliver_early(recorded)
        planned = self.next_round(graph, recorded)
        round_files.write_round(self.workspace, planned)
        self.report_round(number, graph, planned)

    def deliver_early(self, recorded: list[Round]) -> None:
        """Put the best so far into outputs/, where it holds the limits as far as that is known.

        It is no result: nothing goes into the history, and no page is drawn. At most every
        limits.deliver_s seconds.
        """
        due = self.delivered_at + self.workspace.config.limits.deliver_s
        if not recorded or self.run.seconds < due:
            return
        going_on = [*recorded[:-1], replace(recorded[-1], stop=outputs.GOES_ON)]
        judged = self.judge_study(going_on)
        winner = judged[0]["winner"]
        if not winner or judged[0]["status"] == "fail":
            return
        if "kld_mean" in winner["verdict"]["unknown"]:  # it is expected to miss, if not surely
            return
        self.delivered_at = self.run.seconds
        if not outputs.deliver_early(self.workspace, *judged):
            return
        name, folder = winner["name"], judged[0]["study"]
        on = "report" if judged[0]["status"] == "pass" else "search"
        line = (
            f"early   {name} passes on the {on} text: outputs/{folder}/; the study goes on to find "
            "better"
        )
        self.run.say("\n".join(table.wrapped([line], INDENT)))

    def start_planning(self) -> None:
        """Check the study's tasks and remove rounds that don't count any more. Raises UserError."""
        check_tasks(self.workspace.tasks.values())
        self.check_code()
        for path in self.workspace.folder.glob("round-*.json"):
            remove_path(path)
        self.announce()

    def check_code(self) -> None:
        """Check that this machine can run what a model writes, if it is to. Raises UserError."""
        from sintra.probes.evaluation.code import check_jail  # few studies run code

        sources = [Path(source.locator) for source in self.workspace.tasks.values() if source]
        if self.workspace.config.executor.name == "local" and any(map(runs_code, sources)):
            check_jail()

    def next_round(self, graph: Graph, recorded: list[Round]) -> Round:
        """Return the next round: what others have planned from the same, else the planner's."""
        shares = self.workspace.shared is not None and not self.fresh
        if shares and (pulled := sharing.pull_round(self.workspace, graph, recorded)):
            return pulled
        planned = rounds.next_round(graph, self.workspace.store, recorded, self.adviser)
        if not shares:
            return planned
        return sharing.share_round(self.workspace, graph, recorded, planned)

    def report_round(self, number: int, graph: Graph, planned: Round) -> None:
        """Print a round with the work that it takes."""
        count, seconds = remaining_work(graph, self.workspace.store, planned)
        recorded = round_files.read_rounds(self.workspace)[: number - 1]
        names = study_names(graph, self.workspace.store, [*recorded, planned])
        self.run.console.name_steps(step_parts(self.workspace.study.model, names))
        self.run.console.expected_steps += count
        if count and self.run.console.live:
            steps = rounds.round_steps(graph, planned)
            self.run.console.title_steps(step_titles(steps, self.workspace.study.model, names))
        about = f", about {format_seconds(seconds)}" if seconds >= 1 else ""
        of = f" of {self.workspace.study.id}" if self.on_end else ""
        work = f" [{count} steps{about}]" if count else ""
        line = f"round {number}{of}: {round_summary(planned, names)}{work}"
        self.run.say(
            "\n".join(table.wrapped([line], INDENT)),
            "round",
            round=number,
            steps=count,
            seconds=round(seconds, 1),
        )

    def conclude_overdue(self) -> None:
        """Where the run's time is up, judge and deliver what was measured so far.

        The recorded rounds stay as they are, so that the next run goes on from them.
        """
        recorded, policy = round_files.read_rounds(self.workspace), self.workspace.policy
        if self.concluded or not self.run.is_over(policy) or not recorded:
            return
        graph, store = self.workspace.graph(), self.workspace.store
        measured = candidates.collect_candidates(graph, store, recorded)
        if any(candidate.artifact for candidate in measured):
            stop = f"the run's time was up (limits.study_minutes={policy.minutes:g})"
            if left := rounds.step_left(graph, store, recorded[:-1], measured, in_time=False):
                stop += f"; {left}"
            self.conclude_study([*recorded[:-1], replace(recorded[-1], stop=stop)])

    def conclude_study(self, recorded: list[Round] | None = None, show_all: bool = False) -> bool:
        """Judge the candidates, deliver the winner, print the result and tell the listeners.

        show_all: the table has every candidate. Returns whether the goal is met; among others
        always True, since doit never runs what waits for a failed task, and the end of all says
        whose goal is missed.
        """
        self.concluded = True
        sweep_once(self.workspace.store, self.run)  # also where there was nothing to build
        recorded = recorded or round_files.read_rounds(self.workspace)
        rounds.write_keys(self.workspace, self.workspace.graph(), recorded)
        judged = self.judge_study(recorded)
        if damaged := outputs.damaged_makers(outputs.plan_delivery(self.workspace, *judged)):
            self.rebuild(damaged)
            judged = self.judge_study(recorded)
        outcome, measured, recorded, graph = judged
        problem = outputs.deliver(self.workspace, *judged)
        self.write_report()
        if problem:
            self.run.say(
                f"invalid {outcome['study']}: {problem}; outputs/latest doesn't point to it"
            )
        self.events.publish_result(graph, recorded, outcome)
        if self.on_end is not None:
            self.on_end(outcome["study"], "invalid" if problem else outcome["status"])
            return True
        print_result(outcome, measured, self.workspace, self.run.console.mode, show_all)
        return bool(outcome["status"] == "pass" and not problem)

    def judge_study(
        self, recorded: list[Round]
    ) -> tuple[ResultJson, list[Candidate], list[Round], Graph]:
        """Return the result with what it was made from."""
        graph = self.workspace.graph()
        measured = candidates.collect_candidates(graph, self.workspace.store, recorded)
        outcome = result.build_result(
            self.workspace,
            recorded,
            measured,
            dict(self.run.counts),
            self.run.seconds,
            self.run.language_model_bill(),
        )
        return outcome, measured, recorded, graph

    def rebuild(self, damaged: list[Step]) -> None:
        """Build steps again whose files were damaged on disk and are in quarantine now.

        Raises Transient where other bytes come out: the next run measures them.
        """
        store, policy, shared = self.workspace.store, self.workspace.policy, self.workspace.shared
        for step in damaged:
            self.run.say(f"damaged {step.name}: its file on disk is not what was written")
            before = step.outcome(store)
            step.cached.clear()
            for needed in step.all():
                if needed.outcome(store) is None:
                    build_step(needed, store, policy, self.run, shared)
            if step.outcome(store) != before:
                raise Transient(
                    f"{step.name} was damaged on disk, and other bytes came out when it was built "
                    "again: run the same command, which measures them"
                )

    def write_report(self) -> None:
        """Write the study's page unless it is there: delivering a changed result removes it."""
        if not (self.workspace.outputs / "report.html").is_file():
            from sintra.results.pages.report import write_report  # not on the no-op path

            write_report(self.workspace.root, self.workspace.study.id, self.workspace)
