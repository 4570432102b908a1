"""Plain HTML form parts on NiceGUI's elements: labelled, reachable by keyboard, in the page's own
style. A control is written once, as HTML, so that no update of the page takes away what is being
typed.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nicegui import ui

VALUE = "(e) => emit(e.target.value)"
TICKED = "(e) => emit(e.target.checked)"
Values = dict[str, str]
Changed = Callable[[], Any]


def text(words: str, tag: str = "div", classes: str = "") -> ui.html:
    """Words as they are."""
    return ui.html(html.escape(words), sanitize=False, tag=tag).classes(classes)


def labelled(
    words: str, control: str, key: str, values: Values, changed: Changed, classes: str = ""
) -> None:
    """A control below its label; what is typed or chosen is kept."""

    def kept(event: Any) -> Any:
        values[key] = str(event.args)
        return changed()

    made = ui.html(f"<span>{html.escape(words)}</span>{control}", sanitize=False, tag="label")
    made.classes(f"field {classes}").on("input", kept, js_handler=VALUE)


def choice(words: str, key: str, options: list[str], values: Values, changed: Changed) -> None:
    """One of several; an empty first one where nothing is chosen yet."""
    now = values.get(key, "")
    rows = [
        (
            "<option "
            f'value="{html.escape(o)}"{" selected" if o == now else ""}>{html.escape(o or "choose")}</option>'
        )
        for o in (options if now else ["", *options])
    ]
    labelled(words, f'<select name="{key}">{"".join(rows)}</select>', key, values, changed)


def line(
    words: str,
    key: str,
    values: Values,
    changed: Changed,
    hint: str = "",
    more: str = "",
    classes: str = "",
) -> None:
    """A line of text; hint stands in it while it is empty. more: further attributes."""
    hinted, now = html.escape(hint), html.escape(values.get(key, ""))
    box = f'<input name="{key}" autocomplete="off" placeholder="{hinted}" value="{now}" {more}>'
    labelled(words, box, key, values, changed, classes)


def area(words: str, key: str, values: Values, changed: Changed) -> None:
    """Several lines."""
    labelled(words, f'<textarea name="{key}" rows="3"></textarea>', key, values, changed, "all")


def tick(words: str, changed: Callable[[bool], Any]) -> None:
    """A box to tick."""
    made = ui.html(
        f'<input type="checkbox"><span>{html.escape(words)}</span>', sanitize=False, tag="label"
    ).classes("check")
    made.on("change", lambda event: changed(bool(event.args)), js_handler=TICKED)


def button(words: str, act: Callable[[], Any], main: bool = False) -> ui.html:
    """Something to do."""
    made = text(words, "button", "act main" if main else "act").props('type="button"')
    made.on("click", lambda: act())
    return made


def link(words: str, to: str, main: bool = False) -> ui.html:
    """Somewhere to go."""
    return text(words, "a", "act main" if main else "act").props(f'href="{to}"')
