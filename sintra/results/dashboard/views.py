"""Make the dashboard's pages: studies, one study, a comparison. Words and tables come from
templates; what acts is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator

from nicegui import ui

from sintra.results.dashboard import render, runs, widgets
from sintra.results.dashboard.ab_box import AbBox
from sintra.results.dashboard.new_study_form import FirstStudy, NewStudyForm
from sintra.results.dashboard.studies import Studies, StudySnapshot
from sintra.study import running

TABS = (("/", "Studies"), ("/compare", "Compare"), ("/new", "New study"))
PARTS: tuple[render.Part, ...] = ("head", "progress", "candidates", "log")
LOADING = '<p class="soft">Loading\u2026</p>'
RESUMING = "Resuming where it stopped."


@contextlib.contextmanager
def page_frame(path: str, title: str) -> Iterator[None]:
    """Add what every page has: style, links to the others, a main part. path: of the page's tab."""
    ui.add_css(render.style_sheet())
    ui.page_title(f"{title} \u00b7 Sintra")
    with ui.element("header").classes("top"), ui.element("nav").props('aria-label="Pages"'):
        widgets.add_text("Sintra", "a", "brand").props('href="/"')
        for target, words in TABS:
            tab = widgets.add_text(words, "a").props(f'href="{target}"')
            if target == path:
                tab.props('aria-current="page"')
    with ui.element("div").classes("page"):
        yield


def studies_page(studies: Studies) -> None:
    """Show every study, those that run first; read again every two seconds."""
    with page_frame("/", "Studies"):
        widgets.add_text("Studies", "h1")
        with ui.element("div").classes("row"):
            widgets.add_link("New study", "/new", main=True)

        def read_table() -> str:
            return render.render_studies(studies.study_rows()).strip()

        offer = FirstStudy(studies)
        table = ui.html(read_table(), sanitize=False)
        offer.show_unless(bool(table.content))

        async def update() -> None:
            runs.reap_ended()
            widgets.set_html(table, await asyncio.to_thread(read_table))
            offer.show_unless(bool(table.content))

        ui.timer(2.0, update)


def study_page(studies: Studies, name: str) -> None:
    """Show one study: as it runs, or as it ended, with the A/B box."""
    if not studies.has_study(name):
        with page_frame("", "Study not found"):
            widgets.add_text("Study not found", "h1")
        return
    with page_frame("", name):
        view = StudyView(studies, name)
        ui.timer(1.0, view.update)


class StudyView:
    """The parts of a study's page."""

    def __init__(self, studies: Studies, name: str) -> None:
        self.studies, self.name = studies, name
        self.parts = {"head": widgets.add_html()}
        self.status = widgets.add_html(classes="quiet", role="status")
        with ui.element("div").classes("row"):
            self.report = widgets.add_link("Open the report", f"/report/{name}", main=True)
            self.cancel_button = widgets.add_button("Cancel", self.cancel)
            self.resume_button = widgets.add_button("Resume", self.resume, main=True)
        self.parts |= {part: widgets.add_html() for part in PARTS[1:]}
        widgets.set_html(self.parts["head"], LOADING)
        self.box = AbBox(studies, name)

    def cancel(self) -> None:
        """Stop the study's process."""
        stopped = running.cancel_run(self.studies.folder(self.name))
        widgets.set_html(
            self.status, "Stopping; what is finished is kept." if stopped else "Not running."
        )

    def resume(self) -> None:
        """Start a study that has stopped here again, with its own options."""
        note = running.read_run_note(self.studies.folder(self.name))
        if note is None or self.studies.study_row(self.name).state != "stopped":
            return  # the button is hidden; a page can press it all the same
        overrides = [str(o) for o in note["overrides"]]
        runs.start_study(self.studies.root, self.studies.store.root, self.name, overrides)
        widgets.set_html(self.status, RESUMING)

    async def update(self) -> None:
        """Read the study again and show what has changed."""
        runs.reap_ended()
        study = await asyncio.to_thread(self.studies.snapshot, self.name)
        for part in PARTS:
            content = await asyncio.to_thread(render.render_part, part, study)
            widgets.set_html(self.parts[part], content)
        self.show_buttons(study)
        self.box.show_for(study)

    def show_buttons(self, study: StudySnapshot) -> None:
        """Show the buttons that the study's state has a use for."""
        state = study.row.state
        self.report.set_visibility(study.has_report)
        self.cancel_button.set_visibility(state == "running")
        self.resume_button.set_visibility(state == "stopped")
        if state == "running" and self.status.content == RESUMING:
            widgets.set_html(self.status, "")


def comparison_page(studies: Studies) -> None:
    """Show studies that have ended side by side."""
    chosen: list[str] = []
    with page_frame("/compare", "Compare"):
        widgets.add_text("Compare", "h1")
        rows = [row for row in studies.study_rows() if row.winner]
        table = widgets.add_html()

        async def update() -> None:
            columns = [row for row in rows if row.name in chosen]
            widgets.set_html(table, await asyncio.to_thread(render.render_comparison, columns))

        async def toggle(name: str, ticked: bool) -> None:
            chosen[:] = [n for n in chosen if n != name] + [name] * ticked
            await update()

        with ui.element("fieldset").style("border: 0; padding: 0; margin: 0"):
            widgets.add_text("Studies with a result", "legend")
            with ui.element("ul").classes("picks"):
                for row in rows:
                    with ui.element("li"):
                        widgets.add_checkbox(row.name, functools.partial(toggle, row.name))
        table.move(target_index=-1)
        ui.timer(0.1, update, once=True)


def new_study_page(studies: Studies) -> None:
    """Show the form for a new study."""
    with page_frame("/new", "New study"):
        widgets.add_text("New study", "h1")
        NewStudyForm(studies)


def page_routes(studies: Studies) -> dict[str, Callable[[], None]]:
    """Return the pages that need no name of a study, by their paths."""
    return {
        "/": lambda: studies_page(studies),
        "/compare": lambda: comparison_page(studies),
        "/new": lambda: new_study_page(studies),
    }
