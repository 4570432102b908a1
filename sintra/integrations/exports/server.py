"""How llama.cpp's server runs a winner: its image, its arguments and its memory.

The image's tag is the llama.cpp release that the winner was measured with; images and their
platforms are listed in https://github.com/ggml-org/llama.cpp/blob/master/docs/docker.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sintra.config.ranges import count_of
from sintra.core.errors import UserError, nearest
from sintra.core.kv_cache import kv_arguments
from sintra.formats.gguf.chat_template import no_template_reason, read_chat_template
from sintra.formats.gguf.header import read_gguf_header
from sintra.formats.gguf.layout import read_layout
from sintra.hardware.estimate.estimate import Shape, kv_bytes
from sintra.integrations.exports.handover import DeliveredModel

REPOSITORY = "ghcr.io/ggml-org/llama.cpp"
# llama-cpp-python -> the llama.cpp whose libllama it brings (libllama.so.0.5.0)
RELEASES = {"0.3.36": "v0.5.0"}
# a backend -> the image's variant; the rest runs on the CPU
ACCELERATORS = {"cuda": "cuda", "vulkan": "vulkan"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}  # ISA -> OCI
PORT = 8080
USER = 65532  # "nonroot" of the distroless images: nobody's on a usual host
MIB = 2**20
STEP = 16 * MIB  # memory is rounded up to a multiple of this, bytes
HEADROOM = 1.25  # a container's limit over its request
SERVER = 64 * MIB  # buffers of HTTP and of the allocator, which weren't measured, bytes


@dataclass(frozen=True)
class ServerMemory:
    """The memory of a server in its container."""

    peak_bytes: int  # measured peak of a process that read and generated, bytes
    measured_context: int  # context of that measurement, tokens
    kv_extra_bytes: int  # what a larger context adds, by the KV cache's formula, bytes

    @property
    def request(self) -> int:
        """Return what a container requests, bytes: the peak, rounded up to 16 MiB."""
        return -(-(self.peak_bytes + self.kv_extra_bytes) // STEP) * STEP

    @property
    def limit(self) -> int:
        """Return a container's limit, bytes: a quarter and 64 MiB above the request.

        That is for buffers of HTTP and of the allocator, which weren't in the measurement.
        """
        return -(-int(self.request * HEADROOM + SERVER) // STEP) * STEP


@dataclass(frozen=True)
class ServerSpec:
    """What a container of llama.cpp's server is made of."""

    name: str  # of the model and its objects, a DNS label
    image: str  # with its tag
    architecture: str  # as in OCI and Kubernetes: amd64 or arm64
    accelerator: str  # cuda or vulkan; "" for the CPU
    context: int  # tokens
    threads: int  # the device's cores
    memory: ServerMemory
    kv: str  # type of the KV cache

    def arguments(self, model: str) -> list[str]:
        """Return llama-server's arguments, all documented in the release's tools/server/README.md.

        One slot, no mmap and no prompt cache: the measurement had none of these.
        """
        arguments = ["--model", model, "--alias", self.name]
        arguments += ["--host", "0.0.0.0", "--port", str(PORT)]
        arguments += ["--ctx-size", str(self.context), "--parallel", "1"]
        arguments += ["--threads", str(self.threads)]
        arguments += ["--load-mode", "none", "--cache-ram", "0", "--ctx-checkpoints", "0"]
        arguments += kv_arguments(self.kv)
        if self.accelerator:
            arguments += ["--n-gpu-layers", "999"]
        return arguments


def server_spec(winner: DeliveredModel, context: str = "") -> ServerSpec:
    """Describe the server of a winner on its device.

    context: tokens; "" for the context that memory was measured at. Raises UserError.
    """
    hardware, memory = winner.hardware, server_memory(winner, context)
    if "phone" in hardware["title"].lower():
        raise UserError(f"{hardware['title']} runs no containers")
    accelerator = ACCELERATORS.get(hardware["backend"], "")
    variant = f"server-{accelerator}" if accelerator else "server"
    return ServerSpec(
        name=dns_label(winner.title),
        image=f"{REPOSITORY}:{variant}-{llama_cpp_release(winner)}",
        architecture=oci_architecture(hardware["isa"]),
        accelerator=accelerator,
        context=int(context) if context else memory.measured_context,
        threads=hardware["cores"],
        memory=memory,
        kv=winner.recipe.kv,
    )


def print_server_note(winner: DeliveredModel) -> None:
    """Print a note where the model has no chat template that works: the server then has its own."""
    template = read_chat_template(winner.gguf)
    reason = template.failure if template else no_template_reason(read_gguf_header(winner.gguf))
    if reason:
        print(f"note: the model has no chat template ({reason}): llama-server writes ChatML then")


def llama_cpp_release(winner: DeliveredModel) -> str:
    """Return the llama.cpp release that the winner was measured with.

    Raises UserError for one without a known image.
    """
    version = winner.tool_versions["llama-cpp-python"]
    if version not in RELEASES:
        raise UserError(
            f"no image is known for llama-cpp-python {version}: {', '.join(RELEASES)} is "
            "(constraints.txt)"
        )
    return RELEASES[version]


def oci_architecture(isa: str) -> str:
    """Return amd64 or arm64 for a profile's ISA ("x86_64 avx2", "aarch64 dotprod").

    Raises UserError for any other.
    """
    family = next(iter(isa.split()), "")
    if family not in ARCHITECTURES:
        raise UserError(
            f"there is no image of llama.cpp for {family!r}: {nearest(family, ARCHITECTURES)}"
        )
    return ARCHITECTURES[family]


def server_memory(winner: DeliveredModel, context: str) -> ServerMemory:
    """Return the measured peak, and what another context adds to it.

    context: tokens; "" for the measured one. Raises UserError where memory was not measured, or
    the model wasn't trained for such a context.
    """
    peak = winner.measurements.get("ram_peak_bytes")
    if peak is None:
        raise UserError(
            f"the memory of {winner.folder.name}'s winner was not measured: raise max_rounds and "
            "run it again"
        )
    measured = winner.context
    if not context:
        return ServerMemory(int(peak.value), measured, 0)
    layout = read_layout(winner.gguf)
    tokens = count_of(context)
    if tokens is None or tokens > (layout["context"] or tokens):
        raise UserError(
            f"context={context} is not a number of tokens up to the {layout['context']} that the "
            "model was trained for"
        )
    shape, kv = Shape.of(layout), winner.recipe.kv
    extra = kv_bytes(shape, tokens, kv) - kv_bytes(shape, measured, kv)
    return ServerMemory(int(peak.value), measured, max(0, int(extra)))


def dns_label(text: str) -> str:
    """Turn a text into a DNS label (RFC 1123).

    That is lower case letters, digits and '-', at most 63, with a letter or digit at both ends.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "sintra"


def start_limit_s(size: int) -> int:
    """Return how long a server may take until it answers, seconds.

    That is a minute, and reading a file of `size` bytes at a slow SD card's 20 MB/s.
    """
    return 60 + size // 20_000_000
