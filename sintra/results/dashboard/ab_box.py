"""The A/B box: a prompt, and both models' answers as they come."""

from __future__ import annotations

from html import escape
from typing import Any

from nicegui import ui

from sintra.core.errors import UserError
from sintra.results.dashboard import widgets
from sintra.results.dashboard.ab_client import order, talk
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.words import plain

Row = dict[str, Any]
SIDES = ("Original", "Compressed")


class Box:
    """Hidden until the study has a result to talk to."""

    def __init__(self, studies: Studies, name: str) -> None:
        self.studies, self.name, self.busy = studies, name, False
        self.values = {"prompt": "", "tokens": "64", "chat": ""}
        self.told: list[list[tuple[int, str]]] = [[], []]
        self.whole = ui.element("section").props('aria-labelledby="ab"')
        with self.whole:
            widgets.text("Ask both", "h2").props('id="ab"')
            widgets.text(
                (
                    "The same prompt through the 16-bit model and this result, each always taking "
                    "its likeliest token."
                ),
                "p",
                "soft",
            )
            with ui.element("div").classes("form"):
                widgets.area("Prompt", "prompt", self.values, lambda: None)
                widgets.line(
                    "Tokens at most",
                    "tokens",
                    self.values,
                    lambda: None,
                    more='inputmode="numeric"',
                )
                widgets.tick("as a chat", self.chat)
            with ui.element("div").classes("row"):
                self.go = widgets.button("Ask", self.ask, main=True)
            self.said = ui.html("", sanitize=False).classes("wrong").props('role="status"')
            with ui.element("div").classes("pair"):
                self.heads, self.texts = zip(*(self.side(s) for s in SIDES), strict=True)
        self.whole.set_visibility(False)

    def side(self, words: str) -> tuple[ui.html, ui.html]:
        """A heading and the answer below it."""
        with ui.element("div").classes("panel"):
            return widgets.text(words, "h3"), ui.html("", sanitize=False, tag="pre")

    def chat(self, wanted: bool) -> None:
        """Whether the prompt goes through the model's chat template."""
        self.values["chat"] = "true" if wanted else ""

    def offer(self, now: Row) -> None:
        """Show the box where there is something to talk to."""
        result = now["result"]
        self.whole.set_visibility(bool(result and result["winner"] and now["state"] != "running"))

    async def ask(self) -> None:
        """Both answers, as they come."""
        if self.busy:
            return
        self.busy, self.told = True, [[], []]
        self.go.props("disabled")
        self.tell("")
        try:
            tokens = int(self.values["tokens"]) if self.values["tokens"].isdigit() else 0
            given = order(
                self.studies, self.name, self.values["prompt"], tokens, bool(self.values["chat"])
            )
            for side in (0, 1):
                self.heads[side].set_content(SIDES[side])
                self.texts[side].set_content("")
            async for row in talk(given, self.studies.store.folder("orders")):
                self.hear(row)
        except UserError as error:
            self.tell(str(error))
        finally:
            self.busy = False
            self.go.props(remove="disabled")

    def hear(self, row: Row) -> None:
        """A token, a remark, or the end."""
        if "side" in row:
            side = row["side"]
            self.told[side].append((row["n"], row["text"]))
            self.texts[side].set_content(escape("".join(t for _, t in self.told[side])))
            self.heads[side].set_content(
                f"{SIDES[side]} <small>{row['n']} tokens, {plain(row['tps'])} a second here</small>"
            )
        elif "kld" in row:
            self.close(row)
        else:
            self.tell(row.get("error") or row["wait"])

    def close(self, row: Row) -> None:
        """Where they part, and how far apart they were."""
        parted = row["parted"]
        where = "Both say the same." if parted is None else f"They part after {parted} tokens."
        self.tell(
            f"{where} KL divergence along the original's {row['tokens']} tokens: mean "
            f"{row['kld']:.5f}, largest {row['most']:.5f} nats."
        )
        for side in (0, 1) if parted is not None else ():
            before = escape("".join(t for n, t in self.told[side] if n <= parted))
            after = escape("".join(t for n, t in self.told[side] if n > parted))
            self.texts[side].set_content(f"{before}<u>{after}</u>")

    def tell(self, words: str) -> None:
        """Below the button."""
        self.said.set_content(escape(words))
