"""Docker: a folder with Dockerfile, compose.yaml, .dockerignore and the model, for the device's
architecture.

llama.cpp's own server image, at the release that the winner was measured with; the model by its
SHA-256; not as root.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.integrations.exports.server import MIB, PORT, USER, Serving, serving, starting_s
from sintra.store.files import link_or_copy
from sintra.store.store import Store

MODEL = "/models/model.gguf"


def export(folder: Path, store: Store, context: str = "") -> None:
    """Write <folder>/docker. context: tokens that the server keeps; by default what memory was
    measured at.
    """
    given = opened(folder, store, "llama.cpp's server")
    how = serving(given, context)
    out = given.fresh("docker")
    link_or_copy(given.model, out / "model.gguf")
    values = {
        "how": how,
        "given": given,
        "user": USER,
        "port": PORT,
        "model": MODEL,
        "start": starting_s(given.size),
    }
    (out / "Dockerfile").write_text(
        render("Dockerfile", command=json.dumps(how.arguments(MODEL)), **values)
    )
    (out / ".dockerignore").write_text("*\n!model.gguf\n")
    (out / "compose.yaml").write_text(yaml.safe_dump(compose(given, how), sort_keys=False))
    (out / "README.md").write_text(render("docker.md", mib=MIB, **values))
    given.warn()
    print(f"wrote {near(out)}; where Docker is: cd {near(out)} && docker compose up --build")


def compose(given: Handover, how: Serving) -> dict[str, Any]:
    """compose.yaml, by the Compose Specification: one service, on loopback, read-only, without
    capabilities.
    """
    memory = how.memory
    service: dict[str, Any] = {
        "image": f"{how.name}:{given.digest[:12]}",
        "platform": f"linux/{how.architecture}",
        "build": {"context": ".", "platforms": [f"linux/{how.architecture}"]},
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_reservation": f"{memory.request // MIB}m",
        "mem_limit": f"{memory.limit // MIB}m",
        "restart": "unless-stopped",
    }
    if how.accelerator == "cuda":
        gpu = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu]}}}
    elif how.accelerator:
        service["devices"] = ["/dev/dri:/dev/dri"]
    return {"name": how.name, "services": {"model": service}}
