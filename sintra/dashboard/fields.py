"""Plain HTML form parts on NiceGUI's elements: labelled, reachable by keyboard, in the page's own style."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nicegui import ui

VALUE = "(e) => emit(e.target.value)"
Values = dict[str, str]
Changed = Callable[[], Any]


def text(words: str, tag: str = "div", classes: str = "") -> ui.html:
    """Words as they are."""
    return ui.html(html.escape(words), sanitize=False, tag=tag).classes(classes)


def labelled(words: str, classes: str = "") -> ui.element:
    """A label around a control."""
    label = ui.element("label").classes(f"field {classes}")
    with label:
        text(words, "span")
    return label


def bound(element: ui.element, key: str, values: Values, changed: Changed) -> ui.element:
    """Keep what is typed or chosen."""

    def kept(event: Any) -> Any:
        values[key] = str(event.args)
        return changed()

    return element.on("input", kept, js_handler=VALUE)


def choice(words: str, key: str, options: list[str], values: Values, changed: Changed) -> None:
    """One of several; an empty first one where nothing is chosen yet."""
    with labelled(words), bound(ui.element("select"), key, values, changed).props(f'name="{key}"'):
        for option in options if values.get(key) else ["", *options]:
            one = text(option or "choose", "option").props(f'value="{option}"')
            if option == values.get(key, ""):
                one.props("selected")


def line(words: str, key: str, values: Values, changed: Changed, hint: str = "", more: str = "", classes: str = "") -> None:
    """A line of text; hint stands in it while it is empty. more: further attributes."""
    with labelled(words, classes):
        box = bound(ui.element("input"), key, values, changed)
        hinted, value = html.escape(hint), html.escape(values.get(key, ""))
        box.props(f'name="{key}" autocomplete="off" placeholder="{hinted}" value="{value}" {more}')


def area(words: str, key: str, values: Values, changed: Changed) -> None:
    """Several lines."""
    with labelled(words, "all"):
        bound(ui.element("textarea"), key, values, changed).props(f'name="{key}" rows="3"')


def button(words: str, act: Callable[[], Any], main: bool = False) -> ui.html:
    """Something to do."""
    made = text(words, "button", "act main" if main else "act").props('type="button"')
    made.on("click", lambda: act())
    return made


def link(words: str, to: str, main: bool = False) -> ui.html:
    """Somewhere to go."""
    return text(words, "a", "act main" if main else "act").props(f'href="{to}"')
