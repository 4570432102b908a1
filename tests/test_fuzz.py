"""A few hundred odd inputs for everything that reads what others wrote; bench/fuzz.py does the
hundred thousands.
"""

import contextlib
import shutil
import tempfile

import pytest
from fuzzing.guard import Count, Guard
from fuzzing.mutate import KINDS, Edit, mutated
from fuzzing.targets import TARGETS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sintra.core.rendering.worker import SHARED

GUARD = Guard()
FEW = {
    "overrides to a study": 10,
    "profiles to a study": 10,
    "tasks YAML": 40,
    "chat templates": 40,
}
QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}
EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(KINDS),
        st.floats(0, 1),
        st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
    ),
    max_size=6,
)


@pytest.mark.parametrize("name", TARGETS)
def test_a_sound_input_is_taken(name, tmp_path):
    """Else all that is tried is refused at the door."""
    target, taken = TARGETS[name], 0
    for number, seed in enumerate(target.seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with contextlib.suppress(*target.allowed):
            target.run(seed, folder)
            taken += 1
    assert taken


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_falls(name, tmp_path, monkeypatch):
    target, count = TARGETS[name], Count()
    monkeypatch.setattr(
        tempfile, "tempdir", str(tmp_path / "one")
    )  # what a target makes for itself lies in there too
    monkeypatch.setattr(SHARED, "texts_a_child", 500)
    (tmp_path / "one").mkdir()
    with contextlib.suppress(*target.allowed):
        target.run(target.seeds()[0], tmp_path / "one")  # what is imported is imported now

    @settings(max_examples=FEW.get(name, 100 if target.slow else 300), derandomize=True, **QUIET)
    @given(st.sampled_from(target.seeds()), EDITS)
    def tried(seed, edits):
        folder = tmp_path / "one"
        folder.mkdir(exist_ok=True)
        GUARD.tried(count, target.run, mutated(seed, edits, target.words), folder, target.allowed)
        shutil.rmtree(folder)
        assert count.bad == 0, count.found[0]

    tried()
    assert count.inputs >= FEW.get(name, 80)


def test_the_guard_sees(tmp_path):
    """What it would have to report, it does."""

    def strays(data, folder):
        (folder.parent / "outside").write_text("x")

    def fails(data, folder):
        raise KeyError(data)

    def hangs(data, folder):
        while True:
            pass

    import fuzzing.guard

    inside, count, limit = tmp_path / "in", Count(), fuzzing.guard.LIMIT_S
    inside.mkdir()
    fuzzing.guard.LIMIT_S = 0.2
    try:
        for run in (strays, fails, hangs):
            GUARD.tried(count, run, b"x", inside, (ValueError,))
    finally:
        fuzzing.guard.LIMIT_S = limit
    assert (count.outside, count.tracebacks, count.hangs) == (1, 1, 1)
