"""Two machines and a shared store: the second builds nothing, what is damaged is built again."""

import json
import subprocess
import sys
import uuid

import pytest
from conftest import make_project

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.store.store import Store
from sintra.study import round_files, sharing
from sintra.study.round_files import Round
from sintra.study.workspace import open_workspace

pytest.importorskip("obstore")
pytest.importorskip("moto")


@pytest.fixture(scope="module")
def s3():
    from s3_server import S3

    server = S3()
    server.more["SINTRA_STORE_KEY"] = "a key of all machines"  # else the converter is made by each
    yield server
    server.stop()


@pytest.fixture(scope="module")
def args(tiny):
    return (
        "hardware=jetson_nano",
        f"model={tiny}",
        "probe=quick",
        "model.check=false",
        "planner=ladder",
        "planner.types=[Q8_0]",
        "max_rounds=1",
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory, toolchain, s3, args):
    """A machine that has made a study and shared it, and where."""
    bucket = f"store.remote={s3.bucket('study')}"
    project = make_project(tmp_path_factory.mktemp("first") / "project", toolchain)
    done = project.doit("optimize", *args, bucket, **s3.env)
    assert done.returncode in (0, 1), done.stderr
    return project, bucket


@pytest.fixture
def fresh(tmp_path):
    """A machine with an empty cache, the converter not in it either."""
    return make_project(tmp_path / "fresh", empty(tmp_path / "empty"))


def empty(folder):
    folder.mkdir()
    return folder


def said(done, word):
    """Names of the steps of which a line says that."""
    return [line.split()[1] for line in done.stderr.splitlines() if line.startswith(f"{word} ")]


def facts(project):
    """A result without what belongs to the run."""
    return {k: v for k, v in project.result().items() if k not in ("steps", "wall_s", "llm")}


def test_a_second_machine_builds_nothing(first, fresh, s3, args):
    project, bucket = first
    done = fresh.doit("optimize", *args, bucket, **s3.env)
    assert done.returncode in (0, 1), done.stderr
    assert fresh.built(done) == []
    assert len(said(done, "pulled")) == fresh.result()["steps"]["pulled"] > 10
    assert "from the shared store" in done.stdout
    assert facts(fresh) == facts(project)
    assert fresh.doit("verify").returncode == 0

    before = sum(s3.requests.values())
    code = (
        "import sys; from doit.doit_cmd import DoitMain\ncode = DoitMain().run(sys.argv[1:]); "
        "print('OBSTORE', code, 'obstore' in sys.modules)"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, "optimize", *args, bucket],
        cwd=fresh.root,
        env=fresh.env(**s3.env),
        capture_output=True,
        text=True,
    )
    assert f"OBSTORE {done.returncode} False" in again.stdout, again.stderr
    assert sum(s3.requests.values()) == before, "a no-op asks nobody"


def test_pull_then_work_alone(first, fresh, s3, args):
    _, bucket = first
    got = fresh.doit("pull", *args, bucket, **s3.env)
    assert got.returncode == 0, got.stderr
    assert "nothing is left to build" in got.stdout
    done = fresh.doit("optimize", *args)
    assert fresh.built(done) == []


def test_what_is_damaged_there_is_built_here_and_mended(
    first, fresh, s3, args, tmp_path, monkeypatch
):
    project, bucket = first
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    from obstore.store import from_url

    there = from_url(bucket.partition("=")[2], client_options={"allow_http": True})
    store = Store(project.root / "cache")
    entry = next(r for r in store.read_entries() if r["step"] == "convert:tiny")
    file = max(entry["files"], key=lambda f: f["size"])
    path = f"cas/{file['sha256'][:2]}/{file['sha256']}"
    whole = bytes(there.get(path).bytes())
    there.put(path, bytes([whole[0] ^ 1]) + whole[1:])
    done = fresh.doit("optimize", *args, bucket, **s3.env)
    assert fresh.built(done) == ["convert:tiny"]
    assert "refused convert:tiny of the shared store: the blob" in done.stderr
    assert facts(fresh) == facts(project)
    assert bytes(there.get(path).bytes()) == whole, "it is whole again for everybody"


def test_out_of_reach(project, args, s3):
    env = s3.env | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = project.doit("optimize", *args, "store.remote=s3://study/team", **env)
    assert done.returncode in (0, 1)
    assert done.stderr.count("going on without it") == 1
    assert project.built(done)
    assert (
        "can't be used" in project.doit("push", *args, "store.remote=s3://study/team", **env).stderr
    )

    bucket = s3.bucket(f"b{uuid.uuid4().hex[:12]}")
    pushed = project.doit("push", *args, f"store.remote={bucket}", **s3.env)
    assert pushed.returncode == 0, pushed.stderr
    other = make_project(project.root.parent / "other", empty(project.root.parent / "empty"))
    done = other.doit("optimize", *args, f"store.remote={bucket}", "store.mode=readonly", **s3.env)
    assert other.built(done) == [], "what was made alone can be pushed later"
    assert facts(other) == facts(project)
    assert "0 results" in project.doit("push", *args, f"store.remote={bucket}", **s3.env).stdout
    assert (
        "nothing is pushed"
        in project.doit("push", *args, f"store.remote={bucket}", "store.mode=readonly").stderr
    )
    assert project.doit("push", *args).returncode == 2


def given(kind):
    """A round that the ladder of these tests would never propose."""
    proposal = Proposal(Recipe(kind), "somebody has thought of it", "llm", "build")
    return Round(number=1, proposals=(proposal,))


@pytest.mark.parametrize(("kind", "believed"), [("Q5_K_M", True), ("../Q5", False)])
def test_a_round_that_others_planned_is_followed(tmp_path, tiny, args, kind, believed):
    """What a language model or lessons said on one machine is what counts on the others too."""
    remote = f"store.remote={tmp_path / 'shared'}"
    one, two = (
        make_project(tmp_path / name, empty(tmp_path / f"no{name}")) for name in ("one", "two")
    )
    workspace = open_workspace(one.root, [*args, remote])
    assert sharing.share_round(workspace, workspace.graph(), [], given(kind)) == given(kind)
    other = open_workspace(two.root, [*args, remote])
    found = sharing.pull_round(other, other.graph(), [])
    assert (found == given(kind)) is believed
    if not believed:
        return
    round_files.write_round(other, found)
    assert sharing.pull_round(other, other.graph(), round_files.read_rounds(other)) is None, (
        "its steps haven't been made"
    )
    ahead = open_workspace(one.root, [*args, remote, "goal.max_kld=0.3"])
    assert sharing.pull_round(ahead, ahead.graph(), []) is None, (
        "another study's round isn't this one's"
    )
    late = given("Q6_K")
    assert sharing.share_round(other, other.graph(), [], late) == given(kind), (
        "who comes second takes the first one's"
    )


def test_mistakes_are_one_line(project, args):
    for option, wrong in (("store.remote=s5://x", "s5://"), ("store.mode=rw", "store.mode='rw'")):
        done = project.doit("optimize", *args, option)
        assert (done.returncode, done.stdout) == (2, "")
        assert wrong in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_requests_are_few(first):
    """A round file holds what was planned, not how often it was asked for."""
    project, _ = first
    study = project.result()["study"]
    known = sorted((project.root / "cache" / "studies" / study).glob("round-*.json"))
    entries = [r for r in Store(project.root / "cache").read_entries() if r.get("stage") == "round"]
    assert len(entries) == len(known)
    assert {json.loads(p.read_text())["round"] for p in known} == {
        r["action"]["params"]["number"] for r in entries
    }
