"""How llama.cpp's server is to be run with a winner: its image, its arguments, and the memory that
was measured.

The image's tag is the llama.cpp release that the winner was measured with; images and their
platforms are listed in https://github.com/ggml-org/llama.cpp/blob/master/docs/docker.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.formats.gguf.layout import read_layout
from sintra.hardware.estimate.estimate import Shape, kv_bytes
from sintra.integrations.exports.handover import Handover

REPOSITORY = "ghcr.io/ggml-org/llama.cpp"
RELEASES = {
    "0.3.36": "v0.5.0"
}  # llama-cpp-python -> the llama.cpp whose libllama it brings (libllama.so.0.5.0)
ACCELERATORS = {
    "cuda": "cuda",
    "vulkan": "vulkan",
}  # a backend -> the image's variant; the rest runs on the CPU
PORT = 8080
USER = 65532  # "nonroot" of the distroless images: nobody's on a usual host
MIB = 2**20
STEP = 16 * MIB
HEADROOM, SERVER = 1.25, 64 * MIB


@dataclass(frozen=True)
class Memory:
    """Bytes. measured: the peak of a process that read and generated at a context; more: what a
    larger context adds, by the formula of the KV cache; request, limit: of a container.
    """

    measured: int
    context: int
    more: int

    @property
    def request(self) -> int:
        """The peak, rounded up to 16 MiB."""
        return -(-(self.measured + self.more) // STEP) * STEP

    @property
    def limit(self) -> int:
        """A quarter and 64 MiB above that: buffers of HTTP and of the allocator, which weren't in
        the measurement.
        """
        return -(-int(self.request * HEADROOM + SERVER) // STEP) * STEP


@dataclass(frozen=True)
class Serving:
    """architecture: as in OCI and Kubernetes; accelerator: "" for the CPU; threads: the device's
    cores.
    """

    name: str
    image: str
    architecture: str
    accelerator: str
    context: int
    threads: int
    memory: Memory
    kv: str

    def arguments(self, model: str) -> list[str]:
        """llama-server's, all of the release's documentation (tools/server/README.md).

        One slot, no mmap and no prompt cache: what was measured had none of these.
        """
        words: list[Any] = [
            "--model",
            model,
            "--alias",
            self.name,
            "--host",
            "0.0.0.0",
            "--port",
            PORT,
        ]
        words += ["--ctx-size", self.context, "--parallel", 1, "--threads", self.threads]
        words += ["--load-mode", "none", "--cache-ram", 0, "--ctx-checkpoints", 0]
        if self.kv != "f16":
            words += ["--cache-type-k", self.kv, "--cache-type-v", self.kv, "--flash-attn", "on"]
        if self.accelerator:
            words += ["--n-gpu-layers", 999]
        return [str(w) for w in words]


def serving(given: Handover, context: str = "") -> Serving:
    """Of a winner, for its device. context: tokens; "" for the context that memory was measured at.
    Raises UserError.
    """
    device, room = given.device, memory(given, context)
    if "phone" in device["title"].lower():
        raise UserError(f"{device['title']} runs no containers")
    accelerator = ACCELERATORS.get(device["backend"], "")
    variant = f"server-{accelerator}" if accelerator else "server"
    image = f"{REPOSITORY}:{variant}-{release(given)}"
    size = int(context) if context else room.context
    return Serving(
        slug(given.title),
        image,
        architecture(device["isa"]),
        accelerator,
        size,
        device["cores"],
        room,
        given.recipe.kv,
    )


def release(given: Handover) -> str:
    """The llama.cpp release that the winner was measured with. Raises UserError for one without a
    known image.
    """
    version = given.manifest["tools"]["llama-cpp-python"]
    if version not in RELEASES:
        raise UserError(
            f"no image is known for llama-cpp-python {version}: {', '.join(RELEASES)} is "
            "(constraints.txt)"
        )
    return RELEASES[version]


def architecture(isa: str) -> str:
    """amd64 or arm64, from a profile's ISA ("x86_64 avx2", "aarch64 dotprod"). Raises UserError."""
    names = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    word = isa.split()[0]
    if word not in names:
        raise UserError(f"there is no image of llama.cpp for {word!r}: {nearest(word, names)}")
    return names[word]


def memory(given: Handover, context: str) -> Memory:
    """The measured peak, and what another context adds to it. Raises UserError where it was not
    measured.
    """
    peak = given.measured.get("ram_peak_bytes")
    if peak is None:
        raise UserError(
            f"the memory of {given.folder.name}'s winner was not measured: raise max_rounds and "
            "run it again"
        )
    at = int(given.result["context"])
    if not context:
        return Memory(int(peak["value"]), at, 0)
    layout = read_layout(given.model)
    if not context.isdigit() or not 0 < int(context) <= (layout["context"] or int(context)):
        raise UserError(
            f"context={context} is no number of tokens up to the {layout['context']} that the "
            "model was trained for"
        )
    shape, kv = Shape.of(layout), given.recipe.kv
    return Memory(
        int(peak["value"]),
        at,
        max(0, int(kv_bytes(shape, int(context), kv) - kv_bytes(shape, at, kv))),
    )


def slug(text: str) -> str:
    """A DNS label (RFC 1123): lower case letters, digits and '-', at most 63, with a letter or
    digit at both ends.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "sintra"


def starting_s(size: int) -> int:
    """Seconds that a server may take until it answers: a minute, and reading the file at a slow SD
    card's 20 MB/s.
    """
    return 60 + size // 20_000_000
