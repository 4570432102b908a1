"""Whether the hub and pip's index can be reached; asked only with --online."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

from sintra.cli.doctor.check import Check
from sintra.core.text import printable_line

HUB = "https://huggingface.co"  # where HF_ENDPOINT names no other
SECONDS = 10  # of each request


def online_checks() -> list[Check]:
    """Return the hub and pip's index."""
    return [hub_check(), index_check()]


def hub_check() -> Check:
    """Return whether the hub answers."""
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    shown = printable_line(urllib.parse.urlsplit(endpoint).netloc.rpartition("@")[2], 100)
    mend = "export HTTPS_PROXY=URL"  # the usual reason; else there is no network
    if urllib.parse.urlsplit(endpoint).scheme not in ("http", "https"):
        return Check("hub", "bad", "HF_ENDPOINT is not an http(s) address", "unset HF_ENDPOINT")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=SECONDS):
            return Check("hub", "ok", f"{shown} answers")
    except urllib.error.HTTPError as error:
        return Check("hub", "bad", f"{shown} answers {error.code}", mend)
    except (OSError, ValueError) as error:
        reason = printable_line(str(getattr(error, "reason", error)), 100)
        return Check(
            "hub", "bad", f"{shown} can't be reached ({reason}); local models do without", mend
        )


def index_check() -> Check:
    """Return whether pip finds llama-cpp-python, whose source holds the converter."""
    command = [sys.executable, "-m", "pip", "index", "versions", "llama-cpp-python"]
    quiet = ["--disable-pip-version-check", "--retries", "0", "--timeout", str(SECONDS)]
    mend = "export HTTPS_PROXY=URL"
    try:
        done = subprocess.run(
            [*command, *quiet], capture_output=True, text=True, timeout=6 * SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("pip's index", "bad", f"no answer in {6 * SECONDS} s", mend)
    if done.returncode == 0:
        return Check("pip's index", "ok", "has llama-cpp-python, whose source has the converter")
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    return Check("pip's index", "bad", printable_line(lines[-1], 150), mend)
