"""Device profiles that nobody meant, through composing to a study: each a line or a sound device.

    python bench/fuzz_profiles.py [--seconds 180] [--seed 0]

Half of the inputs are sound profiles with odd values in some keys, half the same with bytes changed
(tests/fuzzing/mutate.py). Last line: `inputs=... composed=... tracebacks=0 hangs=0 outside=0
unsound=0`; exit code 1 where one of the last four isn't 0.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing import seeds  # noqa: E402
from fuzzing.guard import Count, Guard  # noqa: E402
from fuzzing.mutate import drawn, mutated  # noqa: E402

from sintra.config.checks import Origins, check_values  # noqa: E402
from sintra.config.compose import compose  # noqa: E402
from sintra.config.options import HardwareConf  # noqa: E402
from sintra.config.study import study_of  # noqa: E402
from sintra.core.errors import UserError  # noqa: E402

VALUES = """0, -1, 1, 8, 63, 8192, 17000, 1e400, -0.0, 1e-300, 010, 0x10, 1_000, 1:30, .inf
-.inf, .nan, null, ~, yes, true, 1.10, 1e5, 8GB, '8 GiB', "17,1", [], [1], {}, {a: 1}
{ambient_c: .nan}, {throttle_c: 80}, ${oc.env:HOME}, '${ oc.env:HOME}', ${.ram_gb}, ${nosuch}
\\${x}, !!python/name:os.system, &a, *a, !!binary x, ???, ../../x, a/b, -x, .x, nvidia, cuda
[llama.cpp], [vllm], "a\\nb", "\\e[2J", "\\u202e", |, >, @a, %a, `a`, 2001-01-01, é, 模型"""


def odd_profile(rng: random.Random) -> bytes:
    """A sound profile with odd values in up to four keys, now and then twice or misspelt."""
    values = {key: str(value) for key, value in asdict(HardwareConf()).items() if value != ()}
    lines = {k: f"{k}: {v}" for k, v in values.items() if v not in ("", "None", "('llama.cpp',)")}
    odd = VALUES.replace("\n", ", ").split(", ")
    for _ in range(rng.randint(0, 4)):
        key = rng.choice(
            [*HardwareConf.__dataclass_fields__, "defaults", "<<", "# @package _global_"]
        )
        place = key if rng.random() < 0.9 else f"{key} "
        lines[place] = f"{key}: {rng.choice(odd)}"
    rows = list(lines.values())
    rng.shuffle(rows)
    return "\n".join(rows).encode() + b"\n"


def composed(data: bytes, folder: Path) -> None:
    """Compose a profile to a study, and check what came of it. Raises UserError."""
    path = folder / "mine.yaml"
    path.write_bytes(data)
    config = compose(ROOT, [f"hardware={path}", "model=fable_mini"])
    study = study_of(config, [])
    composed.sound += 1
    try:
        check_values(asdict(config), Origins(ROOT, (), {}))
    except UserError as error:
        raise AssertionError(f"unsound: {error}") from None
    assert "/" not in study.hardware.name
    assert study.hardware.title.isprintable()
    assert "${" not in study.hardware.title or "${" in path.stem


composed.sound = 0


def main() -> int:
    """Try inputs until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180, help="of this process's time")
    parser.add_argument("--seed", type=int, default=0)
    given, guard, found = parser.parse_args(), Guard(), Count()
    rng, shared = random.Random(given.seed), seeds.profiles()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sintra-fuzz-", dir=memory) as name:
        folder = tempfile.tempdir = name
        end = time.process_time() + given.seconds
        while time.process_time() < end:
            data = odd_profile(rng)
            if rng.random() < 0.5:
                data = mutated(rng.choice([data, *shared]), drawn(rng), seeds.YAML)
            guard.tried(found, composed, data, Path(folder), (UserError,))
        tempfile.tempdir = None
    unsound = sum("unsound" in line for line in found.found)
    for line in found.found:
        print("  " + line.replace("\n", "\n  "))
    print(
        f"inputs={found.inputs} composed={composed.sound} refused={found.refused} "
        f"tracebacks={found.tracebacks} hangs={found.hangs} outside={found.outside} "
        f"unsound={unsound}"
    )
    return 1 if found.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
