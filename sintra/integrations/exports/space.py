"""Hugging Face Space: README with front matter, a Gradio app.py, requirements.txt and the model.

It runs anywhere that `pip install -r requirements.txt gradio` does. Configuration reference:
https://huggingface.co/docs/hub/spaces-config-reference
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.config.slugs import LONGEST_TITLE, check_line
from sintra.core.kv_cache import kv_pair
from sintra.formats.gguf.chat_template import read_chat_format
from sintra.integrations.exports.handover import (
    DeliveredModel,
    open_delivered,
    print_template_note,
    relative_path,
)
from sintra.integrations.exports.templating import render_template
from sintra.integrations.exports.upload import check_license, check_upload, upload_folder
from sintra.store.files import link_or_copy
from sintra.store.store import Store

GRADIO = "6.31.0"  # the one that the app was tried with; Spaces install it by sdk_version
PYTHON = "3.11"


def export(
    folder: Path, store: Store, title: str = "", license: str = "", upload: str = ""
) -> None:
    """Write <folder>/space.

    title: of the page; license: as the hub writes it; upload: owner/name.
    """
    check_license(license)
    check_upload(upload)
    winner = open_delivered(folder, store, "the Space")
    title = title or winner.model_name
    check_line("title", title, LONGEST_TITLE)
    out = winner.empty_folder("space")
    link_or_copy(winner.gguf, out / "model.gguf")
    (out / "app.py").write_text(app_source(winner, title))
    requirements = f"llama-cpp-python=={winner.tool_versions['llama-cpp-python']}\n"
    (out / "requirements.txt").write_text(requirements)
    (out / "packages.txt").write_text("build-essential\ncmake\n")
    (out / ".gitattributes").write_text("*.gguf filter=lfs diff=lfs merge=lfs -text\n")
    (out / "README.md").write_text(space_readme(winner, title, license))
    winner.print_goal_note()
    print_template_note(read_chat_format(winner.gguf), "the page continues a text, no chat")
    path, app = relative_path(out), relative_path(out / "app.py")
    print(f"wrote {path}; to try it here: pip install gradio=={GRADIO} && python {app}")
    if upload:
        print(f"uploaded to {upload_folder(out, upload, 'space', winner.study)}")


def app_source(winner: DeliveredModel, title: str) -> str:
    """Return app.py: a chat where the model has a chat template, else a text that goes on."""
    chat = read_chat_format(winner.gguf)
    kld = winner.measurements.get("kld_mean")
    description = (
        f"{winner.variant}, {winner.size / 1e6:.1f} MB, made for {winner.hardware['title']}"
    )
    description += f"; {kld.value:.4f} nats per token from the 16-bit model" if kld else ""
    values = {
        "title": title,
        "about": description,
        "digest": winner.digest,
        "context": winner.context,
        "kv": kv_pair(winner.recipe.kv),
        "turns": chat.turns,
        "preamble": chat.preamble,
        "opening": chat.opening,
        "lead": chat.lead,
        "stop": list(chat.stop),
    }
    return render_template("space.py.j2", **{name: repr(value) for name, value in values.items()})


def space_readme(winner: DeliveredModel, title: str, license: str) -> str:
    """Return README.md, whose front matter is the Space's configuration."""
    from huggingface_hub import SpaceCard, SpaceCardData  # not needed to list the exports

    look: dict[str, Any] = {
        "emoji": "📦",
        "colorFrom": "gray",
        "colorTo": "blue",
        "pinned": False,
    }
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file="app.py",
        license=license or None,
        **look,
    )
    text = render_template("space.md", winner=winner, title=title, gradio=GRADIO)
    return str(SpaceCard(f"---\n{data.to_yaml()}\n---\n{text}"))
