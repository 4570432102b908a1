"""The dashboard's pages: studies, one study, a comparison, a form. Words and tables come from
templates, what acts is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from nicegui import ui

from sintra.core.errors import UserError
from sintra.results.dashboard import render, runs, widgets
from sintra.results.dashboard.ab_box import Box
from sintra.results.dashboard.studies import Studies
from sintra.study import running

TABS = (("/", "Studies"), ("/compare", "Compare"), ("/new", "New study"))
FORM = {"model": "fable", "goal": "balanced", "planner": "solver", "probe": "standard"}
PARTS = ("head", "progress", "candidates", "log")


@contextlib.contextmanager
def frame(here: str, title: str) -> Iterator[None]:
    """What every page has: style, the way to the others, a main part."""
    ui.add_css(render.style())
    ui.page_title(f"{title} \u00b7 Sintra")
    with ui.element("header").classes("top"), ui.element("nav").props('aria-label="Pages"'):
        widgets.text("Sintra", "a", "brand").props('href="/"')
        for to, words in TABS:
            tab = widgets.text(words, "a").props(f'href="{to}"')
            if to == here:
                tab.props('aria-current="page"')
    with ui.element("div").classes("page"):
        yield


def pieces(names: tuple[str, ...]) -> dict[str, ui.html]:
    """Parts of a page that are written anew when they change."""
    return {name: ui.html("", sanitize=False) for name in names}


def put(part: ui.html, text: str) -> None:
    """Write a part, unless it says so already."""
    if part.content != text:
        part.set_content(text)


def listing(studies: Studies) -> None:
    """Every study, those that run first; looked at again every two seconds."""
    with frame("/", "Studies"):
        widgets.text("Studies", "h1")
        with ui.element("div").classes("row"):
            widgets.link("New study", "/new", main=True)
        part = ui.html(render.listing(studies), sanitize=False)

        async def look() -> None:
            runs.reap()
            put(part, await asyncio.to_thread(lambda: render.listing(studies)))

        ui.timer(2.0, look)


def study(studies: Studies, name: str) -> None:
    """One study: as it runs, or as it ended, with the A/B box."""
    if not studies.known(name):
        with frame("", "Not here"):
            widgets.text("There is no such study", "h1")
        return
    with frame("", name):
        made = pieces(PARTS[:1])
        said = ui.html("", sanitize=False).classes("quiet").props('role="status"')
        with ui.element("div").classes("row"):
            report = widgets.link("Open the report", f"/report/{name}", main=True)
            stop = widgets.button("Cancel", lambda: cancel())
            again = widgets.button("Go on", lambda: go_on(), main=True)
        made |= pieces(PARTS[1:])
        put(made["head"], '<p class="soft">Looking at it\u2026</p>')
        box = Box(studies, name)

        def cancel() -> None:
            done = running.cancel_run(studies.folder(name))
            put(
                said, "Stopping; what is finished is kept." if done else "It does not run any more."
            )

        def go_on() -> None:
            runs.start(studies.root, studies.store.root, name, studies.overrides(name) or [])
            put(said, "Going on where it stopped.")

        async def look() -> None:
            runs.reap()
            now = await asyncio.to_thread(lambda: studies.snapshot(name))
            for part in PARTS:
                put(made[part], await asyncio.to_thread(render.part, part, now))
            report.set_visibility(now["report"])
            stop.set_visibility(now["state"] == "running")
            again.set_visibility(now["state"] == "stopped")
            if now["state"] == "running" and "Going on" in said.content:
                put(said, "")
            box.offer(now)

        ui.timer(1.0, look)


def comparison(studies: Studies) -> None:
    """Studies that have ended, side by side."""
    chosen: list[str] = []
    with frame("/compare", "Compare"):
        widgets.text("Compare", "h1")
        rows = [r for r in studies.listing() if r["winner"]]
        table = ui.html("", sanitize=False)

        async def look() -> None:
            put(
                table,
                await asyncio.to_thread(
                    lambda: render.compared([r for r in rows if r["name"] in chosen])
                ),
            )

        async def toggle(name: str, wanted: bool) -> None:
            chosen[:] = [n for n in chosen if n != name] + [name] * wanted
            await look()

        with ui.element("fieldset").style("border: 0; padding: 0; margin: 0"):
            widgets.text("Studies with a result", "legend")
            with ui.element("ul").classes("picks"):
                for r in rows:
                    with ui.element("li"):
                        widgets.tick(r["name"], functools.partial(toggle, r["name"]))
        table.move(target_index=-1)
        ui.timer(0.1, look, once=True)


def form(studies: Studies) -> None:
    """A new study: what is wanted, checked as it is typed; a dry run; the start."""
    values, offered = dict(FORM), runs.choices(studies.root)
    with frame("/new", "New study"):
        widgets.text("New study", "h1")
        widgets.text(
            (
                "It runs as a process of its own: closing this page or ending the dashboard "
                "leaves it alone."
            ),
            "p",
            "soft",
        )

        async def check() -> tuple[str, list[str]] | None:
            try:
                name, given = await asyncio.to_thread(
                    lambda: runs.checked(studies.root, dict(values))
                )
            except UserError as error:
                put(wrong, render.escaped(str(error)))
                put(told, "")
                return None
            put(wrong, "")
            put(told, f"<code>{render.escaped(render.typed(studies.root, given))}</code>")
            return name, given

        with ui.element("div").classes("form"):
            widgets.line(
                "Model (a name, owner/name, or a folder)",
                "model",
                values,
                check,
                more='list="models"',
            )
            rows = "".join(f'<option value="{render.escaped(m)}">' for m in offered["model"])
            ui.html(rows, sanitize=False, tag="datalist").props('id="models"')
            for group, words in (
                ("hardware", "Hardware"),
                ("goal", "Goal"),
                ("planner", "Planner"),
                ("probe", "How thoroughly"),
            ):
                widgets.choice(words, group, offered[group], values, check)
            for key, words in runs.NUMBERS.items():
                widgets.line(
                    words[0].upper() + words[1:],
                    key,
                    values,
                    check,
                    hint="as the goal says",
                    more='inputmode="decimal"',
                )
            widgets.line(
                "More options",
                "more",
                values,
                check,
                hint="planner.evaluations=10 seed=1",
                classes="all",
            )
        wrong = ui.html("", sanitize=False).classes("wrong").props('role="alert"')
        told = ui.html("", sanitize=False).classes("quiet")

        async def begin() -> None:
            found = await check()
            if not found:
                return
            runs.start(studies.root, studies.store.root, *found)
            while runs.starting(found[0]) and not studies.known(found[0]):
                await asyncio.sleep(0.2)
            if studies.known(found[0]):
                ui.navigate.to(f"/study/{found[0]}")
            else:
                put(
                    wrong,
                    render.escaped((studies.log(found[0]) or ["it ended before it began"])[-1]),
                )

        async def foresee() -> None:
            found = await check()
            if not found:
                return
            put(planned, '<p class="soft">Looking ahead\u2026</p>')
            try:
                put(
                    planned,
                    render.foreseen(
                        await asyncio.to_thread(lambda: runs.foreseen(studies.root, found[1]))
                    ),
                )
            except UserError as error:
                put(planned, "")
                put(wrong, render.escaped(str(error)))

        with ui.element("div").classes("row"):
            widgets.button("Start", begin, main=True)
            widgets.button("Dry run", foresee)
        planned = ui.html("", sanitize=False).props('aria-live="polite"')


def routes(studies: Studies) -> dict[str, Any]:
    """Path -> page."""
    return {
        "/": lambda: listing(studies),
        "/compare": lambda: comparison(studies),
        "/new": lambda: form(studies),
    }
