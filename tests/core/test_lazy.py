"""Modules that are loaded when they are used, also by many threads at once."""

import subprocess
import sys

from conftest import ROOT

THREADS = """
import threading
from sintra.core import lazy
made, barrier, seen = lazy.module("sintra.results.calibration"), threading.Barrier(8), []
def look():
    barrier.wait()
    try:
        seen.append(callable(made.calibration_report))
    except AttributeError as error:
        seen.append(str(error))
threads = [threading.Thread(target=look) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print(seen)
"""


def test_threads_see_a_whole_module():
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", THREADS], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str([True] * 8), done.stdout + done.stderr


def test_nothing_is_loaded_before_it_is_used():
    code = (
        "import sys; from sintra.core import lazy; m = lazy.module('sintra.results.calibration'); "
        "print('sintra.results.calibration' in sys.modules)"
    )
    code += "; m.calibration_report; print('sintra.results.calibration' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
