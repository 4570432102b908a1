"""Hugging Face Space: a folder with README front matter, a Gradio app.py, requirements.txt and the
model.

It runs anywhere that `pip install -r requirements.txt gradio` does. Configuration reference:
https://huggingface.co/docs/hub/spaces-config-reference
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import variant_name
from sintra.formats.gguf.chat_template import read_chat
from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.integrations.exports.upload import check_target
from sintra.integrations.exports.upload import upload as send
from sintra.store.files import link_or_copy
from sintra.store.store import Store

GRADIO = "6.31.0"  # the one that the app was tried with; Spaces install it by sdk_version
PYTHON = "3.11"


def export(
    folder: Path, store: Store, title: str = "", license: str = "", upload: str = ""
) -> None:
    """Write <folder>/space. title: of the page; license: as the hub writes it; upload: owner/name."""
    if license and not re.fullmatch(r"[a-z0-9.+-]+", license):
        raise UserError(
            f"license={license} isn't an identifier of the hub's: apache-2.0, mit, llama3.1, "
            "other, ..."
        )
    if upload:
        check_target(upload)
    given = opened(folder, store, "the Space")
    out = given.fresh("space")
    link_or_copy(given.model, out / "model.gguf")
    (out / "app.py").write_text(app(given, title or given.result["model"]))
    (out / "requirements.txt").write_text(
        f"llama-cpp-python=={given.manifest['tools']['llama-cpp-python']}\n"
    )
    (out / "packages.txt").write_text("build-essential\ncmake\n")
    (out / ".gitattributes").write_text("*.gguf filter=lfs diff=lfs merge=lfs -text\n")
    (out / "README.md").write_text(readme(given, title or given.result["model"], license))
    given.warn()
    print(
        f"wrote {near(out)}; to try it here: pip install gradio=={GRADIO} && python "
        f"{near(out)}/app.py"
    )
    if upload:
        print(f"uploaded to {send(out, upload, 'space', given.result['study'])}")


def app(given: Handover, title: str) -> str:
    """app.py: a chat where the model has a chat template, else a text that goes on."""
    chat = read_chat(given.model)
    kld = given.measured.get("kld_mean")
    about = (
        f"{variant_name(given.recipe)}, {given.size / 1e6:.1f} MB, made for {given.device['title']}"
    )
    about += f"; {kld['value']:.4f} nats a token from the 16-bit model" if kld else ""
    values = {
        "title": title,
        "about": about,
        "digest": given.digest,
        "context": chat.context,
        "kv": given.recipe.kv,
        "chats": chat.turns is not None,
    }
    return render("space.py.j2", **{k: repr(v) for k, v in values.items()})


def readme(given: Handover, title: str, license: str) -> str:
    """README.md, whose front matter is the Space's configuration."""
    from huggingface_hub import SpaceCard, SpaceCardData

    more: dict[str, Any] = {"emoji": "📦", "colorFrom": "gray", "colorTo": "blue", "pinned": False}
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file="app.py",
        license=license or None,
        **more,
    )
    return str(
        SpaceCard(
            f"---\n{data.to_yaml()}\n---\n{render('space.md', given=given, title=title, gradio=GRADIO)}"
        )
    )
