"""The A/B box: a prompt, and both models' answers as they come."""

from __future__ import annotations

from html import escape

from nicegui import ui

from sintra.core.errors import UserError
from sintra.results.dashboard import widgets
from sintra.results.dashboard.ab_client import ab_order, stream_answers
from sintra.results.dashboard.ab_process import AbEvent, AbSummary, AbToken
from sintra.results.dashboard.studies import Studies, StudySnapshot
from sintra.results.pages.words import format_number

SIDES = ("Original", "Compressed")
INTRODUCTION = (
    "The same prompt through the 16-bit model and this result, each always taking its likeliest "
    "token."
)


class AbBox:
    """A form for the prompt and two panels for the answers; hidden until the study has a result."""

    def __init__(self, studies: Studies, name: str) -> None:
        self.studies = studies
        self.name = name  # the study
        self.busy = False  # whether an answer is on its way
        self.values = {"prompt": "", "tokens": "64", "chat": ""}  # chat: "true" or ""
        self.pieces: list[list[AbToken]] = [[], []]  # of both answers so far
        self.section = ui.element("section").props('aria-labelledby="ab"')
        with self.section:
            widgets.add_text("Ask both", "h2").props('id="ab"')
            widgets.add_text(INTRODUCTION, "p", "soft")
            self.add_form()
            with ui.element("div").classes("row"):
                self.ask_button = widgets.add_button("Ask", self.ask, main=True)
            self.status = widgets.add_html(classes="wrong", role="status")
            with ui.element("div").classes("pair"):
                panels = [self.add_panel(side) for side in SIDES]
                self.heads, self.texts = zip(*panels, strict=True)
        self.section.set_visibility(False)

    def add_form(self) -> None:
        """Add the prompt, the number of tokens and the choice of a chat."""
        with ui.element("div").classes("form"):
            widgets.add_text_area("Prompt", "prompt", self.values, lambda: None)
            widgets.add_input(
                "Tokens at most",
                "tokens",
                self.values,
                lambda: None,
                attributes='inputmode="numeric"',
            )
            widgets.add_checkbox("as a chat", self.set_chat)

    def add_panel(self, words: str) -> tuple[ui.html, ui.html]:
        """Add a heading and the answer below it."""
        with ui.element("div").classes("panel"):
            return widgets.add_text(words, "h3"), widgets.add_html("pre")

    def set_chat(self, ticked: bool) -> None:
        """Choose whether the prompt goes through the model's chat template."""
        self.values["chat"] = "true" if ticked else ""

    def show_for(self, study: StudySnapshot) -> None:
        """Show the box where the study has a result and does not run."""
        winner = study.result and study.result["winner"]
        self.section.set_visibility(bool(winner and study.row.state != "running"))

    async def ask(self) -> None:
        """Show both answers as they come."""
        if self.busy:
            return
        self.busy, self.pieces = True, [[], []]
        self.ask_button.props("disabled")
        self.show_status("")
        values = self.values
        try:
            tokens = int(values["tokens"]) if values["tokens"].isdigit() else 0
            order = ab_order(
                self.studies, self.name, values["prompt"], tokens, bool(values["chat"])
            )
            for side in (0, 1):
                self.heads[side].set_content(SIDES[side])
                self.texts[side].set_content("")
            async for event in stream_answers(order, self.studies.store.folder("orders")):
                self.show_event(event)
        except UserError as error:
            self.show_status(str(error))
        finally:
            self.busy = False
            self.ask_button.props(remove="disabled")

    def show_event(self, event: AbEvent) -> None:
        """Show a piece of an answer, the summary, a remark or an error."""
        if "side" in event:
            self.show_token(event)
        elif "kld" in event:
            self.show_summary(event)
        else:
            self.show_status(event["error"] if "error" in event else event["wait"])

    def show_token(self, token: AbToken) -> None:
        """Show a piece of an answer and the speed so far."""
        side = token["side"]
        self.pieces[side].append(token)
        self.texts[side].set_content(escape("".join(t["text"] for t in self.pieces[side])))
        self.heads[side].set_content(
            f"{SIDES[side]} <small>{token['n']} tokens, {format_number(token['tps'])} a second "
            "here</small>"
        )

    def show_summary(self, summary: AbSummary) -> None:
        """Show where the answers differ first, and how far apart the models were."""
        parted = summary["parted"]
        where = (
            "Both answers are the same."
            if parted is None
            else f"First difference at token {parted + 1}."
        )
        self.show_status(
            f"{where} KL divergence along the original's {summary['tokens']} tokens: mean "
            f"{summary['kld']:.5f}, largest {summary['most']:.5f} nats."
        )
        if parted is None:
            return
        for side in (0, 1):
            before, after = (
                escape("".join(t["text"] for t in self.pieces[side] if (t["n"] > parted) is late))
                for late in (False, True)
            )
            self.texts[side].set_content(f"{before}<u>{after}</u>")

    def show_status(self, words: str) -> None:
        """Show a line below the button."""
        widgets.set_text(self.status, words)
