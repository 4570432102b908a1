"""Steps through the shared store, with results published by hand instead of by a worker."""

import uuid

import pytest

from sintra.build.step import Step
from sintra.core.errors import Transient
from sintra.store.remote.address import Address
from sintra.store.remote.shared import SharedStore
from sintra.store.store import Store
from sintra.study import sharing

pytest.importorskip("obstore")


class Machine:
    """A cache with a shared store behind it, and what was built here."""

    def __init__(self, folder, remote, writable=True):
        self.store, self.shared, self.built, self.said = Store(folder), None, [], []
        if remote:
            self.shared = SharedStore(Address(f"file://{remote}", writable), self.said.append)
        source, text = Step("prune", "model", {}), Step("extract", "text", {})
        tool = Step("wikitext", "tool", {})
        gguf = Step("convert", "gguf", {"type": "f16"}, {"model": source, "toolchain": tool})
        self.steps = [
            source,
            text,
            tool,
            gguf,
            Step("baseline", "base", {}, {"gguf": gguf, "text": text}),
        ]

    def build(self, step, text="made"):
        folder = self.store.folder("tmp") / uuid.uuid4().hex
        folder.mkdir()
        for name in (*step.plugin.files, "out"):
            (folder / name).write_text(f"{text} {step.name}")
        self.built.append(step.label)
        about = {"step": step.name, "stage": step.stage, "action": step.action(self.store)}
        self.store.publish(step.key(self.store), self.store.put_tree(folder), about)

    def make(self, text="made"):
        """Every step that isn't there, as a run does it: how each came."""
        return [
            sharing.make_step(s, self.store, self.shared, lambda s=s: self.build(s, text))
            for s in self.steps
            if s.outcome(self.store) is None
        ]


def digests(machine):
    return [s.outcome(machine.store).digest for s in machine.steps]


def test_the_second_builds_nothing(tmp_path):
    one, two = (Machine(tmp_path / n, tmp_path / "shared") for n in ("one", "two"))
    assert one.make() == ["built"] * 5
    assert two.make("made elsewhere") == ["pulled"] * 5
    assert two.built == []
    assert digests(one) == digests(two)
    assert two.make() == []


def test_what_a_step_is_made_of_goes_with_it(tmp_path):
    """What was in the cache before there was a shared store would else be built by everybody."""
    alone = Machine(tmp_path / "one", None)
    for step in alone.steps[:4]:
        alone.build(step)
    one = Machine(tmp_path / "one", tmp_path / "shared")
    assert one.make() == ["built"]
    assert Machine(tmp_path / "two", tmp_path / "shared").make("no") == ["pulled"] * 5


def test_one_damaged_is_built_alone(tmp_path):
    one, two, three = (Machine(tmp_path / n, tmp_path / "shared") for n in ("one", "two", "three"))
    one.make()
    digest = one.steps[3].outcome(one.store).files[0].sha256
    blob = tmp_path / "shared" / "cas" / digest[:2] / digest
    whole = blob.read_bytes()
    blob.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert two.make() == ["pulled", "pulled", "pulled", "built", "pulled"], (
        "equal bytes leave what follows alone"
    )
    assert blob.read_bytes() == whole
    assert three.make() == ["pulled"] * 5
    assert [len(m.said) for m in (two, three)] == [1, 0]


def test_one_damaged_that_comes_out_otherwise(tmp_path):
    """A step that isn't reproducible and whose bytes are lost: what is built now counts from then
    on, for everybody.
    """
    one, two, three = (Machine(tmp_path / n, tmp_path / "shared") for n in ("one", "two", "three"))
    one.make()
    digest = one.steps[3].outcome(one.store).files[0].sha256
    (tmp_path / "shared" / "cas" / digest[:2] / digest).write_bytes(b"x" * 17)
    assert two.make("otherwise") == ["pulled", "pulled", "pulled", "built", "built"]
    assert "replaced convert:gguf in the shared store" in two.said[1]
    assert three.make() == ["pulled"] * 5
    assert digests(two) == digests(three) != digests(one)


def test_who_was_slower_takes_over(tmp_path):
    one, two = (Machine(tmp_path / n, tmp_path / "shared") for n in ("one", "two"))
    one.make()
    two.shared.pull = lambda *_: None  # it looked before the other had pushed
    assert two.make("other bytes") == ["built"] * 5
    assert digests(one) == digests(two), "and so what follows is made from the same"


def test_read_only_and_gone(tmp_path):
    reader = Machine(tmp_path / "two", tmp_path / "shared", writable=False)
    assert reader.make() == ["built"] * 5
    assert len(reader.said) == 1
    assert not (tmp_path / "shared").exists()


def test_a_fault_is_no_result(tmp_path):
    one = Machine(tmp_path / "one", tmp_path / "shared")

    def fails():
        raise Transient("no network")

    with pytest.raises(Transient):
        sharing.make_step(one.steps[0], one.store, one.shared, fails)
    assert not list((tmp_path / "shared").rglob("*.json"))
    assert one.make() == ["built"] * 5
