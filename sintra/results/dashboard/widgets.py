"""Make plain HTML form parts on NiceGUI's elements: labeled, reachable by keyboard, in the page's
own style. A control is written once, as HTML, so that no update of the page takes away what is
being typed.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nicegui import ui

EMIT_VALUE = "(e) => emit(e.target.value)"
EMIT_CHECKED = "(e) => emit(e.target.checked)"
Values = dict[str, str]  # key of a control -> what is typed or chosen
OnChange = Callable[[], Any]  # a function or coroutine function


def add_text(words: str, tag: str = "div", classes: str = "") -> ui.html:
    """Add an element with a text, escaped."""
    return ui.html(html.escape(words), sanitize=False, tag=tag).classes(classes)


def add_html(tag: str = "div", classes: str = "", role: str = "") -> ui.html:
    """Add an empty element whose HTML is set later. role: its ARIA role, where it has one."""
    element = ui.html("", sanitize=False, tag=tag).classes(classes)
    return element.props(f'role="{role}"') if role else element


def set_html(element: ui.html, content: str) -> None:
    """Set an element's HTML, unless it is that already."""
    if element.content != content:
        element.set_content(content)


def set_text(element: ui.html, words: str) -> None:
    """Set an element's text, escaped."""
    set_html(element, html.escape(words))


def add_control(
    words: str, control: str, key: str, values: Values, on_change: OnChange, classes: str = ""
) -> None:
    """Add a control below its label; what is typed or chosen goes to values[key]."""

    def update(event: Any) -> Any:
        values[key] = str(event.args)
        return on_change()

    label = ui.html(f"<span>{html.escape(words)}</span>{control}", sanitize=False, tag="label")
    label.classes(f"field {classes}").on("input", update, js_handler=EMIT_VALUE)


def add_select(
    words: str, key: str, options: list[str], values: Values, on_change: OnChange
) -> None:
    """Add a choice of one of several; an empty first one where nothing is chosen yet."""
    chosen = values.get(key, "")
    rows = [
        f'<option value="{html.escape(option)}"{" selected" if option == chosen else ""}>'
        f"{html.escape(option or 'choose')}</option>"
        for option in (options if chosen else ["", *options])
    ]
    add_control(words, f'<select name="{key}">{"".join(rows)}</select>', key, values, on_change)


def add_input(
    words: str,
    key: str,
    values: Values,
    on_change: OnChange,
    hint: str = "",
    attributes: str = "",
    classes: str = "",
) -> None:
    """Add a line of text. hint: shown while it is empty; attributes: further HTML attributes."""
    hint, text = html.escape(hint), html.escape(values.get(key, ""))
    box = (
        f'<input name="{key}" autocomplete="off" placeholder="{hint}" value="{text}" {attributes}>'
    )
    add_control(words, box, key, values, on_change, classes)


def add_text_area(words: str, key: str, values: Values, on_change: OnChange) -> None:
    """Add several lines of text."""
    box = f'<textarea name="{key}" rows="3"></textarea>'
    add_control(words, box, key, values, on_change, "all")


def add_checkbox(words: str, on_change: Callable[[bool], Any]) -> None:
    """Add a box to tick."""
    label = ui.html(
        f'<input type="checkbox"><span>{html.escape(words)}</span>', sanitize=False, tag="label"
    ).classes("check")
    label.on("change", lambda event: on_change(bool(event.args)), js_handler=EMIT_CHECKED)


def add_button(words: str, on_click: Callable[[], Any], main: bool = False) -> ui.html:
    """Add a button. main: whether it is the page's first choice."""
    button = add_text(words, "button", "act main" if main else "act").props('type="button"')
    button.on("click", lambda: on_click())
    return button


def add_link(words: str, target: str, main: bool = False) -> ui.html:
    """Add a link that looks like a button. main: whether it is the page's first choice."""
    return add_text(words, "a", "act main" if main else "act").props(f'href="{target}"')
