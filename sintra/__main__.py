"""A Hydra application around `doit optimize`, for Hydra's launchers and sweepers: `python -m sintra
-m model=a,b hardware=x,y`.

Each job is one study in a doit of its own; jobs share their steps through the cache's locks. `doit
sweep` does the same in one process and one table; this door is for joblib, submitit and the like
(`hydra/launcher=submitit_slurm`), and for sweepers that search: a job returns its winner's value of
goal.optimise (negative where more is better), infinity where limits were missed. Needs a project:
dodo.py and conf/ in the current folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from sintra.config.compose import conf_dirs
from sintra.config.hydra_values import writable_schema
from sintra.core.errors import UserError
from sintra.core.process import end_when_unread
from sintra.study.result_upgrade import parse_result
from sintra.study.workspace import open_workspace

ConfigStore.instance().store(name="schema", node=writable_schema())


def study(overrides: list[str], root: Path) -> float:
    """Run one study to its end. Raises RuntimeError where it couldn't be run."""
    code = subprocess.run(
        [sys.executable, "-m", "doit", "optimize", *overrides], cwd=root, check=False
    ).returncode
    if code not in (0, 1):
        raise RuntimeError(f"doit optimize {' '.join(overrides)} ended with exit code {code}")
    result = parse_result((open_workspace(root, overrides).outputs / "result.json").read_text())
    return value(result)


def value(result: Mapping[str, Any]) -> float:
    """What a sweeper makes small."""
    sense, metric = next(
        (s, result["goal"][k])
        for k, s in (("minimise", 1), ("maximise", -1))
        if k in result["goal"]
    )
    if result["status"] != "pass":
        return float("inf")
    return float(
        sense * next(m["value"] for m in result["winner"]["measurements"] if m["metric"] == metric)
    )


def main() -> None:
    """The command."""
    end_when_unread()
    root = Path.cwd()
    if not (root / "dodo.py").exists() or not (root / "conf").is_dir():
        print(
            "sintra: there is no dodo.py with a conf/ here: run this in a project", file=sys.stderr
        )
        raise SystemExit(2)
    try:
        more = [d.resolve() for d in conf_dirs(root)[1:]]
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if more:
        sys.argv.append(f"hydra.searchpath=[{','.join(f'file://{d}' for d in more)}]")
    sys.argv += [
        "hydra.run.dir=.",
        "hydra.sweep.dir=outputs/multirun",
        "hydra.sweep.subdir=.",
        "hydra/job_logging=disabled",
    ]

    @hydra.main(
        version_base="1.3", config_path=str((root / "conf").resolve()), config_name="config"
    )
    def job(_: Any) -> float:
        return study(list(HydraConfig.get().overrides.task), root)

    job()


if __name__ == "__main__":
    main()
