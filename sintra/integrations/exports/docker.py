"""Docker: Dockerfile, compose.yaml, .dockerignore and the model, for the device's architecture.

llama.cpp's own server image, at the release that the winner was measured with; the model by its
SHA-256; not as root.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NotRequired, TypedDict

import yaml

from sintra.integrations.exports.handover import (
    DeliveredModel,
    open_delivered,
    relative_path,
)
from sintra.integrations.exports.server import (
    MIB,
    PORT,
    USER,
    ServerSpec,
    print_server_note,
    server_spec,
    start_limit_s,
)
from sintra.integrations.exports.templating import render_template
from sintra.store.files import link_or_copy
from sintra.store.store import Store

MODEL = "/models/model.gguf"  # in the container


class ComposeBuild(TypedDict):
    """How the image is built."""

    context: str  # folder, relative to compose.yaml
    platforms: list[str]


class ComposeService(TypedDict):
    """A service of the Compose Specification, with the fields that are written here."""

    image: str
    platform: str
    build: ComposeBuild
    ports: list[str]  # address:port:port
    read_only: bool  # the file system
    tmpfs: list[str]
    cap_drop: list[str]
    security_opt: list[str]
    mem_reservation: str  # "256m": MiB
    mem_limit: str  # "256m": MiB
    restart: str
    deploy: NotRequired[dict[str, object]]  # with a GPU of NVIDIA's
    devices: NotRequired[list[str]]  # with another GPU


class ComposeFile(TypedDict):
    """compose.yaml."""

    name: str
    services: dict[str, ComposeService]


def export(folder: Path, store: Store, context: str = "") -> None:
    """Write <folder>/docker.

    context: tokens that the server keeps; by default what memory was measured at.
    """
    winner = open_delivered(folder, store, "llama.cpp's server")
    server = server_spec(winner, context)
    out = winner.empty_folder("docker")
    link_or_copy(winner.gguf, out / "model.gguf")
    values = {
        "server": server,
        "winner": winner,
        "user": USER,
        "port": PORT,
        "model": MODEL,
        "start": start_limit_s(winner.size),
    }
    command = json.dumps(server.arguments(MODEL))
    (out / "Dockerfile").write_text(render_template("Dockerfile", command=command, **values))
    (out / ".dockerignore").write_text("*\n!model.gguf\n")
    compose = yaml.safe_dump(compose_file(winner, server), sort_keys=False)
    (out / "compose.yaml").write_text(compose)
    (out / "README.md").write_text(render_template("docker.md", mib=MIB, **values))
    winner.print_goal_note()
    print_server_note(winner)
    path = relative_path(out)
    print(f"wrote {path}; where Docker is: cd {path} && docker compose up --build")


def compose_file(winner: DeliveredModel, server: ServerSpec) -> ComposeFile:
    """Return compose.yaml: one service, on loopback, read-only, without capabilities."""
    memory = server.memory
    service: ComposeService = {
        "image": f"{server.name}:{winner.digest[:12]}",
        "platform": f"linux/{server.architecture}",
        "build": {"context": ".", "platforms": [f"linux/{server.architecture}"]},
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_reservation": f"{memory.request // MIB}m",
        "mem_limit": f"{memory.limit // MIB}m",
        "restart": "unless-stopped",
    }
    if server.accelerator == "cuda":
        gpu = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu]}}}
    elif server.accelerator:
        service["devices"] = ["/dev/dri:/dev/dri"]
    return {"name": server.name, "services": {"model": service}}
