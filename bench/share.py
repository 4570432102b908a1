"""What sharing saves: a study built from nothing, pushed, and pulled by a machine with an empty
cache.

    python bench/share.py [model=fable hardware=jetson_nano ...]

The bucket is moto's S3 server on loopback (a Python server: its speed is a lower bound of what S3
gives in one region, and says nothing of a slow line). Prints a table: seconds, steps built and
pulled, bytes moved.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ["model=fable", "hardware=jetson_nano"]


class Machine:
    """A folder like a clone of this repository, with an empty cache."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.root, self.env = folder, os.environ | env
        folder.mkdir()
        for name in ("dodo.py", "conf", "models"):
            (folder / name).symlink_to(ROOT / name)

    def doit(self, *args: str) -> tuple[float, subprocess.CompletedProcess[str]]:
        """Seconds, and what was said. Exits where it went wrong."""
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "doit", *args],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):
            sys.exit(done.stderr)
        return time.monotonic() - start, done

    def result(self) -> dict:
        """The latest result."""
        return json.loads((self.root / "outputs" / "latest" / "result.json").read_text())

    def bytes(self) -> int:
        """Of all blobs."""
        return sum(p.stat().st_size for p in (self.root / "cache" / "cas").glob("??/*"))


def row(what: str, seconds: float, machine: Machine, done: subprocess.CompletedProcess[str]) -> str:
    """A line of the table."""
    built, pulled = (
        len(re.findall(rf"^{word} ", done.stderr, re.M)) for word in ("built", "pulled")
    )
    return f"| {what} | {seconds:.1f} | {built} | {pulled} | {machine.bytes() / 1e6:.1f} |"


def main(raw: list[str]) -> None:
    """Build, push, pull, and once more without anything to do."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/bench", method="PUT"), timeout=10).read()
    env = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }
    remote = "store.remote=s3://bench/team"
    with tempfile.TemporaryDirectory(prefix="share-") as folder:
        one, two, three = (Machine(Path(folder, name), env) for name in ("one", "two", "three"))
        print(
            (
                "| what | seconds | built | pulled | MB in the cache |\n| --- | --- | --- | --- | "
                "--- |"
            ),
            flush=True,
        )
        runs = [
            (one, "built from nothing", ["optimize"], []),
            (one, "`doit push`", ["push"], [remote]),
            (two, "`doit optimize` on a second machine", ["optimize"], [remote]),
            (two, "the same again", ["optimize"], [remote]),
            (three, "`doit pull` on a third", ["pull"], [remote]),
        ]
        for machine, what, command, more in runs:
            seconds, done = machine.doit(*command, *raw, *more)
            print(row(what, seconds, machine, done), flush=True)
            print(done.stdout.strip().splitlines()[-1], file=sys.stderr, flush=True)
        skipped = ("steps", "wall_s", "llm")
        same = [{k: v for k, v in m.result().items() if k not in skipped} for m in (one, two)]
        print(f"the two results are {'equal' if same[0] == same[1] else 'DIFFERENT'}")
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1:] or DEFAULT)
