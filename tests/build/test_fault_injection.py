"""A few of each kind of fault (tests/faults; all of them: python -m tests.faults --full)."""

import shutil

import pytest
from faults import disk, flips, kills, odd, others, shared
from faults.lab import Lab, Tally, reference, warmed


@pytest.fixture(scope="module")
def bench(tmp_path_factory, toolchain, tiny):
    """A lab whose cache holds the converted model, and what an uninterrupted run of the rest comes
    to.
    """
    folder = tmp_path_factory.mktemp("faults")
    cold = Lab(folder / "cold", tiny, toolchain)
    reference(cold)
    lab = Lab(folder / "project", tiny, warmed(cold, folder / "begun"))
    shutil.rmtree(cold.root)
    return lab, reference(lab)


def test_killed_at_boundaries(bench):
    tally = Tally("boundaries")
    kills.boundaries(*bench, tally, 5)
    assert tally.violations == []
    assert tally.faults >= 5


def test_killed_at_random(bench):
    tally = Tally("random")
    kills.moments(*bench, tally, 3)
    assert (tally.faults, tally.violations) == (3, [])


def test_a_disk_that_is_full_at_a_write(bench):
    tally = Tally("disk")
    disk.full(*bench, tally, 4)
    assert tally.violations == []
    assert tally.faults >= 4


def test_a_read_only_cache(bench):
    tally = Tally("read-only")
    disk.read_only(*bench, tally, ("whole",))
    if "needs the right" in tally.note:
        pytest.skip(tally.note)
    assert (tally.faults, tally.violations) == (1, [])


@pytest.mark.parametrize("kind", flips.KINDS)
def test_a_flipped_byte(bench, kind):
    tally = Tally(kind)
    flips.each_kind(*bench, tally, 1, kinds=[kind], fresh=False)
    assert (tally.faults, tally.violations) == (1, [])


def test_a_damaged_input_is_never_used(bench):
    tally = Tally("input")
    flips.poisoned(*bench, tally, 1)
    assert (tally.faults, tally.violations) == (1, [])


def test_four_processes_share_forty_steps(tmp_path):
    tally = Tally("four")
    shared.forty(tmp_path, tally, 1)
    assert tally.violations == []


def test_a_clock_that_is_wrong(bench):
    tally = Tally("clock")
    shared.clocks(*bench, tally, (("+2d", "-30y"),))
    assert (tally.faults, tally.violations) == (1, [])


@pytest.mark.parametrize("name", others.EXPERIMENTS)
def test_faults_without_a_study(tmp_path, name):
    tally = Tally(name)
    others.EXPERIMENTS[name][0](tmp_path, tally, 12)
    assert (tally.faults, tally.violations) == (12, [])


def test_planted_rounds():
    tally = Tally("rounds")
    others.planted_rounds(tally, 200)
    assert (tally.faults, tally.violations) == (200, [])


def test_outputs_as_a_copy(bench):
    tally = Tally("copy")
    odd.copied_outputs(*bench, tally, 1)
    assert (tally.faults, tally.violations) == (1, [])
