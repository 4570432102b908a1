"""Read the device profiles of conf/hardware without composing a study."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, cast

from sintra.config.checks import Origins, check_values
from sintra.config.compose import conf_dirs, names
from sintra.config.options import HardwareConf, from_json
from sintra.config.profile_file import read_profile_file


class ProfileFile(TypedDict, total=False):
    """A profile's YAML file; what it leaves out has HardwareConf's default."""

    name: str  # as in `hardware=NAME`
    title: str  # what it is called in reports
    backend: str  # cpu, cuda, metal, vulkan, opencl
    cores: int  # CPU cores
    isa: str  # instruction sets that llama.cpp has kernels for
    ram_gb: float  # memory that holds the model, GiB
    usable_gb: float  # what a process may have of it, GiB
    bandwidth_gbs: float  # memory bandwidth, 10^9 bytes/s
    efficiency: float  # share of the bandwidth that decoding reaches
    efficiency_spread: float  # half-width of the 90 % interval of its logarithm
    overhead_us_per_layer: float  # time per layer and token beside reading, microseconds
    overhead_spread: float  # half-width of the 90 % interval of its logarithm
    bytes_per_weight: float  # cost of decoding a weight beside reading it, bytes
    k_quant: float  # extra cost of a byte of a K-quant, as a share
    tflops: float | None  # effective speed of prompt processing, 10^12 FLOP/s
    tflops_spread: float  # half-width of the 90 % interval of its logarithm
    thermal: dict[str, float]  # parameters of estimate/thermal.ThermalModel
    runtimes: list[str]  # what can run a model there
    storage_mbs: float | None  # reading from storage, 10^6 bytes/s
    host_usable_gb: float  # memory of the computer that a graphics card sits in, GiB
    host_bandwidth_gbs: float  # its bandwidth, 10^9 bytes/s
    type_costs: dict[str, float]  # cost of a byte of a tensor type, as measured
    runtime_mib: float  # memory beside weights, cache and buffers, MiB
    runtime_spread_mib: float  # half-width of its 90 % interval, MiB


def read_profile(root: Path, name: str) -> ProfileFile:
    """Read a profile's YAML file; raises KeyError where there is none, and UserError for a mistake.

    Of folders that both have it, the first (Sintra's own) wins, as in Hydra.
    """
    for folder in conf_dirs(root):
        path = folder / "hardware" / f"{name}.yaml"
        if path.is_file():
            profile = cast(ProfileFile, read_profile_file(path))
            device = {"hardware": asdict(profile_conf(profile))}
            check_values(device, Origins(root, (), {"hardware": path}))
            return profile
    raise KeyError(name)


def read_profiles(root: Path) -> dict[str, ProfileFile]:
    """Read all profiles, by name."""
    return {name: read_profile(root, name) for name in sorted(names(root, "hardware"))}


def profile_conf(profile: ProfileFile) -> HardwareConf:
    """Return a profile as options, with defaults for what it leaves out."""
    return from_json(HardwareConf, asdict(HardwareConf()) | dict(profile))


def read_bandwidths(root: Path) -> dict[str, float]:
    """Read the theoretical memory bandwidth of every profile, bytes/s by name."""
    bandwidths = {n: p.get("bandwidth_gbs") for n, p in read_profiles(root).items()}
    return {name: float(gbs) * 1e9 for name, gbs in bandwidths.items() if gbs}
