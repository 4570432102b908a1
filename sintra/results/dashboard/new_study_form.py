"""The form for a new study: checked as it is typed; a dry run; the start."""

from __future__ import annotations

import asyncio
import html
from dataclasses import dataclass

from nicegui import ui

from sintra.core.errors import UserError
from sintra.results.dashboard import render, runs, widgets
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.command_lines import optimize_command

DEFAULTS = {"model": "fable", "goal": "balanced", "planner": "solver", "probe": "standard"}
SELECTS = {"hardware": "Hardware", "goal": "Goal", "planner": "Planner", "probe": "Effort"}
INTRODUCTION = (
    "It runs as a process of its own: closing this page or ending the dashboard leaves it alone."
)
FIRST_STUDY = ["hardware=jetson_nano", "effort=quick"]
FIRST_WORDS = (
    "No studies yet. The first one compresses the bundled model for a Jetson Nano, with few "
    "variants. It takes some minutes on this machine and needs no network."
)
POLL_S = 0.2  # between two looks at whether a study has started


@dataclass(frozen=True)
class CheckedStudy:
    """What a form without mistakes asks for."""

    name: str
    overrides: list[str]


async def start_and_open(studies: Studies, study: CheckedStudy, error: ui.html) -> None:
    """Start a study and go to its page; where it ends before it has one, show its last line."""
    runs.start_study(studies.root, studies.store.root, study.name, study.overrides)
    while runs.is_starting(study.name) and not studies.has_study(study.name):
        await asyncio.sleep(POLL_S)
    if studies.has_study(study.name):
        ui.navigate.to(f"/study/{study.name}")
    else:
        log = studies.log_tail(study.name) or ["it ended before it began"]
        widgets.set_text(error, log[-1])


class FirstStudy:
    """What a project without studies offers: one of the bundled model, at a click."""

    def __init__(self, studies: Studies) -> None:
        self.studies = studies
        with ui.element("div").classes("panel") as self.box:
            widgets.add_text(FIRST_WORDS, "p")
            widgets.add_button("Start a first study", self.start, main=True)
            self.error = widgets.add_html(classes="wrong", role="alert")

    def show_unless(self, any_studies: bool) -> None:
        """Show the offer only while there are no studies."""
        self.box.set_visibility(not any_studies)

    async def start(self) -> None:
        """Start the study and go to its page."""
        try:
            values = await asyncio.to_thread(runs.check_options, self.studies.root, FIRST_STUDY)
        except UserError as error:
            widgets.set_text(self.error, str(error))
            return
        await start_and_open(self.studies, CheckedStudy(*values), self.error)


class NewStudyForm:
    """The form's fields, its messages and its two buttons, in the order of the page."""

    def __init__(self, studies: Studies) -> None:
        self.studies = studies
        self.values = dict(DEFAULTS)
        widgets.add_text(INTRODUCTION, "p", "soft")
        with ui.element("div").classes("form"):
            self.add_fields()
        self.error = widgets.add_html(classes="wrong", role="alert")
        self.command = widgets.add_html(classes="quiet")
        with ui.element("div").classes("row"):
            widgets.add_button("Start", self.start, main=True)
            widgets.add_button("Dry run", self.show_dry_run)
        self.plan = widgets.add_html().props('aria-live="polite"')

    def add_fields(self) -> None:
        """Add the model, the configuration groups, the limits and further options."""
        choices = runs.form_choices(self.studies.root)
        widgets.add_input(
            "Model (a name, owner/name, or a folder)",
            "model",
            self.values,
            self.check,
            attributes='list="models"',
        )
        options = "".join(f'<option value="{html.escape(m)}">' for m in choices["model"])
        ui.html(options, sanitize=False, tag="datalist").props('id="models"')
        for group, words in SELECTS.items():
            widgets.add_select(words, group, choices[group], self.values, self.check)
        for key, words in runs.NUMBERS.items():
            widgets.add_input(
                words[0].upper() + words[1:],
                key,
                self.values,
                self.check,
                hint="goal default",
                attributes='inputmode="decimal"',
            )
        widgets.add_input(
            "More options",
            "more",
            self.values,
            self.check,
            hint="planner.evaluations=10 seed=1",
            classes="all",
        )

    async def check(self) -> CheckedStudy | None:
        """Check the values; show the command that does the same, or what is wrong."""
        root, values = self.studies.root, dict(self.values)
        try:
            study = CheckedStudy(*await asyncio.to_thread(runs.check_form, root, values))
        except UserError as error:
            widgets.set_text(self.error, str(error))
            widgets.set_html(self.command, "")
            return None
        widgets.set_html(self.error, "")
        command = html.escape(optimize_command(root, study.overrides))
        widgets.set_html(self.command, f"<code>{command}</code>")
        return study

    async def start(self) -> None:
        """Start the study and go to its page."""
        study = await self.check()
        if study is None:
            return
        await start_and_open(self.studies, study, self.error)

    async def show_dry_run(self) -> None:
        """Show what the study would build first."""
        study = await self.check()
        if study is None:
            return
        widgets.set_html(self.plan, '<p class="soft">Planning\u2026</p>')
        try:
            plan = await asyncio.to_thread(runs.dry_run, self.studies.root, study.overrides)
            widgets.set_html(self.plan, render.render_dry_run(plan))
        except UserError as error:
            widgets.set_html(self.plan, "")
            widgets.set_text(self.error, str(error))
