"""What a machine is: this one against independent sources, boards from files in the form that they
have there.
"""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT

from sintra.config import compose
from sintra.core.errors import UserError
from sintra.hardware.detect import auto, bandwidth, cgroups, machine, profile
from sintra.hardware.detect.gpus import Gpu
from sintra.study.workspace import composed

GIB, MIB = 2**30, 2**20
A76 = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "lrcpc dcpop asimddp"
)


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def cores(count, features):
    part = (
        "BogoMIPS\t: 108.00\n"
        + features
        + "\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0b\n"
    )
    return "".join(f"processor\t: {i}\n{part}\n" for i in range(count))


def test_raspberry_pi_5(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": cores(4, A76) + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
            "proc/meminfo": (
                "MemTotal:        8256144 kB\nMemFree:         5310976 kB\nMemAvailable:    "
                "7365520 kB\n"
            ),
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "54750\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        },
    )
    found = machine.read_linux_machine(root)
    assert (found.cores, found.physical, found.architecture, found.isa) == (
        4,
        4,
        "aarch64",
        ("dotprod",),
    )
    assert (found.memory, found.usable) == (8256144 * 1024, 7365520 * 1024)
    assert (found.board, found.profile) == ("Raspberry Pi 5 Model B Rev 1.0", "raspberry_pi_5")
    assert found.temperatures == {"cpu-thermal": 54.75}
    assert found.modes == {"governor": "ondemand"}
    known = yaml.safe_load((ROOT / "conf/hardware/raspberry_pi_5.yaml").read_text())
    made = profile.profile_of_machine(found, None, known)
    assert made["efficiency"] == known["efficiency"]
    assert made["usable_gb"] == pytest.approx(7365520 / 1024**2, abs=0.001)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit Super", "jetson_orin_nano_super"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson_agx_orin"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson_orin_nano"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson_nano"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry_pi_4"),
        ("Raspberry Pi 500 Rev 1.0", "raspberry_pi_5"),
        ("Pine64 Rock64", ""),
    ],
)
def test_boards_by_their_device_tree(tmp_path, model, name):
    found = machine.read_linux_machine(
        tree(
            tmp_path,
            {"proc/device-tree/model": model + "\0", "var/lib/nvpmodel/status": "pmode:0002"},
        )
    )
    assert found.profile == name
    assert found.modes == {"nvpmodel": "pmode:0002"}


def test_a_container_with_limits_of_version_2(tmp_path):
    outer, inner = "sys/fs/cgroup/user.slice", "sys/fs/cgroup/user.slice/app.scope"
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": cores(8, A76),
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n",
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            f"{outer}/memory.max": "536870912\n",
            f"{outer}/memory.current": "200000000\n",
            f"{outer}/memory.stat": "anon 1\ninactive_file 50000000\n",
            f"{inner}/memory.max": "max\n",
            f"{inner}/cpu.max": "150000 100000\n",
        },
    )
    found = machine.read_linux_machine(root)
    assert found.limits == cgroups.CgroupLimits(536870912, 150000000, 1.5)
    assert (found.usable, found.cores) == (536870912 - 150000000, 1)


def test_a_container_with_limits_of_version_1_seen_from_inside(tmp_path):
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "314572800",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert cgroups.cgroup_limits(root) == cgroups.CgroupLimits(314572800, 1000, 2.0)
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712")
    assert cgroups.cgroup_limits(root).memory is None


@pytest.mark.skipif(sys.platform != "linux", reason="compared with /proc")
def test_this_machine():
    found = machine.this_machine()
    assert found.cores <= len(os.sched_getaffinity(0))
    assert found.physical == psutil.cpu_count(logical=False)
    assert found.memory == psutil.virtual_memory().total
    text = Path("/proc/cpuinfo").read_text()
    assert ("avx2" in found.isa) == (" avx2 " in text)
    assert ("avx512f" in found.isa) == (" avx512f " in text)


@pytest.fixture
def group():
    """A cgroup of our own that may have 700 MiB."""
    base, name = next(cgroups.group_folders(Path("/"), "memory"), None), "memory.limit_in_bytes"
    if base is None:
        base, name = next(cgroups.group_folders(Path("/"), ""), None), "memory.max"
    if base is None:
        pytest.skip("no cgroup filesystem is mounted here")
    made = base / f"sintra-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
        (made / name).write_text(str(700 * MIB))
    except OSError as error:
        if made.is_dir():
            made.rmdir()
        pytest.skip(f"no memory group can be made here: {error}")
    yield made
    made.rmdir()


def test_a_real_cgroup_with_a_memory_limit(tmp_path, group):
    for item in ("dodo.py", "conf", "models"):
        (tmp_path / item).symlink_to(ROOT / item)
    inside = (
        f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -m doit detect --format json "
        "--out mine.yaml"
    )
    done = subprocess.run(
        ["sh", "-c", inside], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["limits"]["memory"] == 700 * MIB
    assert 0 < found["machine"]["usable"] < 700 * MIB
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["usable_gb"] < 700 / 1024


def test_a_mac_by_its_sysctl():
    found = machine.mac_of_sysctl(
        {
            "machdep.cpu.brand_string": "Apple M2",
            "hw.memsize": str(8 * GIB),
            "hw.physicalcpu": "8",
            "hw.optional.arm.FEAT_I8MM": "1",
        },
        3 * GIB,
    )
    assert (found.profile, found.memory, found.cores, found.isa) == (
        "macbook_air_m2",
        8 * GIB,
        8,
        ("i8mm", "dotprod"),
    )


def test_a_graphics_card_is_the_device_and_this_its_host(tmp_path):
    card = Gpu("NVIDIA GeForce RTX 3060", "cuda", 12 * GIB, 11 * GIB, 360e9)
    host = machine.read_linux_machine(
        tree(tmp_path, {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"})
    )
    made = profile.profile_of_machine(
        replace(host, gpus=(card,)), {"read": 30e9, "copy": 20e9}, None
    )
    assert (made["backend"], made["bandwidth_gbs"], made["usable_gb"]) == ("cuda", 360, 11)
    assert (made["host_usable_gb"], made["host_bandwidth_gbs"]) == (
        pytest.approx(8000000 / 1024**2, abs=1e-3),
        30,
    )


def test_bandwidth_is_of_this_world():
    assert all(1e8 < value < 1e13 for value in bandwidth.measure_bandwidth(1, 32 * MIB).values())


def test_a_profile_file_is_hardware(tmp_path):
    mine, bad = tmp_path / "mine.yaml", tmp_path / "bad.yaml"
    found = auto.detect_machine(mine, measure=True)
    conf = compose.compose(ROOT, [f"hardware={mine}", "hardware.cores=3"], cache=tmp_path).hardware
    assert conf.bandwidth_gbs == found.profile["bandwidth_gbs"]
    assert conf.cores == 3
    mine.write_text("name: mine\nbandwidth_gbs: 77\nram_gb: 8\nusable_gb: 7\n")
    again = compose.compose(ROOT, [f"hardware={mine}", "hardware.cores=3"], cache=tmp_path).hardware
    assert again.bandwidth_gbs == 77, "the cache of composed configurations sees a changed file"
    for text, says in (
        ("speed: 3", "a profile has no 'speed'"),
        ("- 1", "is not a profile"),
        ("a: [", "can't be read"),
    ):
        bad.write_text(text)
        with pytest.raises(UserError, match=says):
            compose.compose(ROOT, [f"hardware={bad}"])
    with pytest.raises(UserError, match="there is no such file"):
        compose.compose(ROOT, ["hardware=./nowhere.yaml"])


def test_auto_is_looked_for_once(tmp_path):
    raw = ["hardware=auto", f"store.path={tmp_path}"]
    first = composed(ROOT, raw).hardware
    made = (tmp_path / profile.AUTO_PROFILE).stat().st_mtime_ns
    assert composed(ROOT, raw).hardware == first
    assert (tmp_path / profile.AUTO_PROFILE).stat().st_mtime_ns == made
