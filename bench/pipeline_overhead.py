"""What the pipeline costs over bare library calls for the same conversions, quantizations and
evaluations.

    python bench/pipeline_overhead.py [--types Q8_0,Q4_K_M,Q2_K]

Both do the same work on models/fable: convert, baseline, then quantize and evaluate each type; the
bare run does it in one process without store, worker or doit. Worker start-up is measured apart as
a worker with nothing to do. Last line: `pipeline=... bare=... workers=... startup_each=...
overhead=...` (overhead beyond start-up, as a fraction).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import json, os, sys
from pathlib import Path
from sintra.core.stage import Context, cores
from sintra.stages import convert, quantize
from sintra.probes import baseline, quality
work, tools, types = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
def run(name, module, params, **inputs):
    out = work / name; out.mkdir(parents=True)
    module.run(Context(params, inputs, out, {}, work, cores())); return out
text = work / "text"; text.mkdir(parents=True)
(text / "text.txt").write_text(Path("models/texts/search.txt").read_text())
gguf = run("gguf", convert, {"type": "f16"}, model=Path("models/fable").resolve(), toolchain=tools)
base = run("base", baseline, {"context": 512, "tokens": 5120, "top_k": 512}, gguf=gguf, text=text)
for kind in types:
    made = run(kind, quantize, {"type": kind, "tensors": []}, gguf=gguf)
    run("q" + kind, quality, {"seed": 0}, gguf=made, baseline=base)
"""


def timed(command: list[str], cwd: Path, **env: str) -> float:
    """Wall seconds of a command that must not fail."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, env={**os.environ, **env})
    return time.perf_counter() - start


def startup(root: Path) -> float:
    """A worker that finds its work done: interpreter, imports, locks. Median of five."""
    from sintra.store.store import Store

    store = Store(root / "cache")
    record = next(r for r in store.read_entries() if r["stage"] == "quality")
    order = {
        "key": record["key"],
        "stage": "quality",
        "step": record["step"],
        "store": str(store.root),
        "action": record["action"],
        "inputs": {},
        "hints": {},
        "threads": 1,
    }
    path = root / "order.json"
    path.write_text(json.dumps(order))
    # The stage's own libraries are part of every worker's start.
    code = (
        "import llama_cpp, sys; from sintra.build.worker import main; sys.exit(main(sys.argv[1:]))"
    )
    return statistics.median(timed([sys.executable, "-c", code, str(path)], root) for _ in range(5))


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default="Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for link in ("dodo.py", "conf", "models"):
            (root / link).symlink_to(ROOT / link)
        doit = [sys.executable, "-m", "doit"]
        args = [
            "planner=ladder",
            f"planner.types=[{options.types}]",
            f"planner.batch={len(options.types.split(','))}",
            "goal.max_kld=9",
        ]
        from sintra.build.run import run_step
        from sintra.build.step import Step
        from sintra.core.artifact import Artifact
        from sintra.stages.tools import toolchain_params
        from sintra.store.store import Store

        store, step = Store(root / "cache"), Step("toolchain", "llama.cpp", toolchain_params())
        run_step(step, store)
        made = step.outcome(store)
        assert isinstance(made, Artifact)
        tools = store.lay_out(made, root / "tools")
        timed([*doit, "propose:01", *args], root)
        ends = [f"quality:fable-{kind}-search" for kind in options.types.split(",")]
        pipeline = timed([*doit, *ends, *args], root)
        workers = len(list((root / "cache" / "ac").glob("*/*.json"))) - 1
        bare = timed(
            [sys.executable, "-c", BARE, str(root / "bare"), str(tools), options.types],
            root,
            OMP_NUM_THREADS="2",
        )
        each = startup(root)
        print(
            f"pipeline={pipeline:.2f}s bare={bare:.2f}s workers={workers} "
            f"startup_each={each:.2f}s overhead={(pipeline - workers * each - bare) / bare:.3f}"
        )


if __name__ == "__main__":
    main()
