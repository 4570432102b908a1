"""A board over SSH: a real sshd on loopback, real files, real models, real cuts of the line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from board import Sshd, free_port, keygen, runnable
from configs import LLAMA, write
from conftest import QUICK, make_llama

from sintra.core.errors import Infeasible, Transient, UserError
from sintra.hardware.boards import runner, transfer
from sintra.hardware.boards.answers import LONGEST_TEXT, is_answer, read_row
from sintra.hardware.boards.transfer import CHUNK, resume_offset
from sintra.hardware.estimate.architecture import read_architecture, shape_of_preset
from sintra.probes.board import check_run
from sintra.store.files import hash_file

pytestmark = pytest.mark.skipif(
    not runnable(), reason="no sshd that can be started here (Debian: openssh-server)"
)
MIB = 2**20
JOB = {
    "job": "speed",
    "prompt": 8,
    "generate": 8,
    "repeat": 1,
    "kv": "f16",
    "limit": None,
    "threads": 1,
    "gpu_layers": None,
}


@pytest.fixture
def sshd(tmp_path):
    """A board for one test."""
    made = Sshd(tmp_path / "sshd")
    yield made
    made.stop()


def board(sshd, say=lambda text: None, **options):
    from sintra.hardware.boards.ssh import SshBoard

    return SshBoard(sshd.options(**options), say)


def rows(candidate):
    return {m["metric"]: m for m in candidate["measurements"]}


def test_a_whole_study_measures_on_the_board_and_copies_once(project, sshd, tiny):
    wanted = [
        "optimize",
        "hardware=laptop",
        f"model={tiny}",
        *QUICK,
        "goal.max_kld=5",
    ]
    first = project.doit(*wanted, *sshd.overrides())
    assert first.returncode == 0, first.stderr
    result = project.result()
    best = rows(result["winner"])
    assert {
        m: best[m]["how"] for m in ("device_tg_tps", "device_pp_tps", "device_ram_bytes")
    } == dict.fromkeys(("device_tg_tps", "device_pp_tps", "device_ram_bytes"), "measured")
    cpu = runner.describe_board({"bench": ""})["cpu"]
    label = f"{cpu} {os.uname().machine} x{runner.usable_cores()}"
    assert best["device_tg_tps"]["where"] == label
    assert (
        best["device_tg_tps_estimated"]["how"]
        == best["device_ram_bytes_estimated"]["how"]
        == "estimated"
    )
    assert best["device_ram_bytes"]["value"] > result["winner"]["artifact"]["bytes"]
    said = " ".join(first.stdout.split())
    assert f"measured on {best['device_tg_tps']['where']}: llama.cpp Q2_K" in said
    assert re.search(r"device_memory:tiny-Q2_K\S*: copying", first.stderr), "progress is shown"
    there = {p.name for p in sshd.blobs.iterdir()}
    assert result["winner"]["artifact"]["sha256"] in there
    assert there <= {c["artifact"]["sha256"] for c in result["candidates"]}, (
        "finalists, each under its SHA-256, nothing half"
    )
    assert result["board"]["host_key"].startswith("SHA256:")
    made = [json.loads(p.read_text()) for p in (project.root / "cache" / "ac").glob("??/*.json")]
    keys = [r["action"] for r in made if r["stage"] == "device_speed"]
    assert {k["params"]["board"]["host_key"] for k in keys} == {result["board"]["host_key"]}
    assert not any(str(sshd.port) in json.dumps(k) for k in keys), "an address is in no key"

    again = project.doit(*wanted, *sshd.overrides(), "probe.speed_generate=9")
    assert again.returncode == 0, again.stderr
    assert {n.split(":")[0] for n in project.built(again)} == {"speed", "device_speed"}
    assert "nothing copied" in again.stderr
    assert "copying" not in again.stderr
    assert [c for c in sshd.sessions() if "runner" in " ".join(c.cmdline())] == [], (
        "nothing of ours is left running there"
    )
    sshd.stop()
    offline = project.doit(*wanted, *sshd.overrides())
    assert (offline.returncode, project.built(offline)) == (0, []), (
        "what was measured needs no board"
    )


def test_a_line_cut_while_copying_is_taken_up_again(tmp_path, sshd):
    data, said = tmp_path / "model.gguf", []
    data.write_bytes(os.urandom(16 * CHUNK + 12345))
    digest = hash_file(data)
    part = sshd.blobs / f"{digest}.part"
    cuts = []

    def say(text):
        said.append(text)
        if text.startswith("copied") and not cuts and part.stat().st_size > 6 * CHUNK:
            cuts.append(part.stat().st_size)
            sshd.hang_up()

    there = board(sshd, say)
    identity = there.identify()
    original, transfer.PROGRESS_S = transfer.PROGRESS_S, 0.0  # a line for every chunk
    try:
        found = there.measure(JOB, data, digest, identity)
    finally:
        transfer.PROGRESS_S = original
    assert cuts, said
    with pytest.raises(Infeasible, match=r"llama\.cpp can't load it"):  # random bytes are not model
        check_run(found, "board", 60)
    assert any("was lost" in line for line in said)
    going_on = [line for line in said if "going on at" in line]
    assert len(going_on) == 1
    assert float(going_on[0].split()[-2]) * 1e6 > cuts[0] - 2 * CHUNK > 0, (
        "what had arrived isn't sent twice"
    )
    assert [p.name for p in sshd.blobs.iterdir()] == [digest]
    assert hash_file(sshd.blobs / digest) == digest


def test_going_on_never_trusts_the_last_chunk():
    assert [
        resume_offset(n, 10 * CHUNK) for n in (0, 1, CHUNK, CHUNK + 1, 2 * CHUNK, 11 * CHUNK)
    ] == [
        0,
        0,
        0,
        CHUNK,
        CHUNK,
        0,
    ]


def test_what_arrives_damaged_is_copied_again(tmp_path, sshd):
    data, said = tmp_path / "model.gguf", []
    data.write_bytes(os.urandom(2 * CHUNK))
    digest = hash_file(data)
    sshd.blobs.mkdir(parents=True)
    (sshd.blobs / f"{digest}.part").write_bytes(
        bytes(CHUNK + 5)
    )  # of another file: the first chunk is wrong
    there = board(sshd, said.append)
    there._with_retries(lambda folder: there._copy(folder, data, digest))
    assert "what arrived is damaged: copied again" in said
    assert hash_file(sshd.blobs / digest) == digest


def test_what_is_there_already_is_verified(tmp_path, sshd):
    """A blob and our own two files on the board are known by their bytes, not by their size."""
    data, said = tmp_path / "model.gguf", []
    data.write_bytes(os.urandom(CHUNK + 5))
    digest, there = hash_file(data), board(sshd, said.append)
    sshd.blobs.mkdir(parents=True)
    (sshd.blobs / digest).write_bytes(bytes(data.stat().st_size))  # of the right size

    def copy():
        said.clear()
        there._with_retries(lambda folder: there._copy(folder, data, digest))
        return " ".join(said)

    assert "is damaged: copied again" in copy()
    assert hash_file(sshd.blobs / digest) == digest
    planted = next((sshd.home / "sintra").glob("runner-*.py"))
    original, ran = planted.read_bytes(), tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\n".encode()
    planted.write_bytes(code + original[len(code) :])
    assert planted.stat().st_size == len(original)
    assert "nothing copied" in copy()
    assert planted.read_bytes() == original
    assert not ran.exists(), "what somebody put in its place has not run"


def test_what_a_board_says_is_data(tmp_path, sshd):
    """A board that isn't what it seems: nothing of it reaches the terminal as it is."""
    said, other = [], tmp_path / "other"
    lines = ({"say": "\x1b]0;owned\x07\nx" * 99}, {"t": [], "phase": 1}, {"end": {"cores": "\x1b"}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    other.write_text(f"#!/bin/sh\ncat <<'END'\n{{\n{'[' * 9999}\n{text}END\n")
    other.chmod(0o755)
    with pytest.raises(Transient, match="the answer to machine isn't one of our runner's"):
        board(sshd, said.append, python=str(other)).identify()
    assert len(said) == 1
    assert said[0].isprintable()
    assert len(said[0]) <= LONGEST_TEXT
    other.write_text("#!/bin/sh\nprintf 'a\\033[31mb' >&2\n")
    with pytest.raises(Transient, match=re.escape("broke off in machine: a?[31mb")):
        board(sshd, python=str(other)).identify()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [{"metric": "pp_tps", "rates": ["fast"]}]},
        {"rows": [{"metric": "pp_tps"}]},
        {"rows": [{"metric": "../../x", "rates": [1.0]}]},
        {"rows": {"error": "x"}},
        {"code": None},
        {"log": ["x"]},
        {"celsius": "hot"},
    ],
)
def test_an_answer_has_the_form_of_its_job(change):
    rows = [{"metric": "pp_tps", "rates": [1.5], "gpu": False}, {"peak": 1, "load_s": 0.1}]
    run = RUN_RESULT | {"rows": rows}
    assert is_answer("speed", run)
    assert not is_answer("speed", run | change)
    assert read_row(json.dumps(run | {"rss": float("nan")})) == {}


RUN_RESULT = {
    "phase": "decode",
    "rss": 1,
    "peak": 1,
    "system": 0,
    "celsius": None,
    "mhz": 1500.5,
    "throttled": [],
    "swapped": 0,
    "oom_kills": 0,
    "seconds": 1.5,
    "code": -9,
    "late": False,
    "log": "",
}


def test_a_wrong_or_unknown_host_key_is_refused(project, sshd, tiny, tmp_path):
    other = keygen(tmp_path / "other")
    sshd.trust(other)
    wanted = ["optimize", f"model={tiny}", *QUICK, *sshd.overrides()]
    done = project.doit(*wanted)
    lines = [x for x in done.stderr.splitlines() if x.startswith("sintra: ")]
    print_of = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.root / "host.pub")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.returncode == 2
    assert len(lines) == 1
    assert f"has changed ({print_of.stdout.split()[1]}), and nothing was sent" in lines[0]
    assert "ssh-keygen -R" in lines[0]
    assert project.built(done) == []
    assert not sshd.blobs.exists()
    sshd.known.write_text("elsewhere " + other + "\n")
    with pytest.raises(
        UserError, match=rf"isn't known \(SHA256:.*ssh-keyscan -p {sshd.port} 127.0.0.1 >> "
    ):
        board(sshd).identify()
    sshd.known.unlink()
    with pytest.raises(UserError, match="isn't known"):
        board(sshd).identify()


def test_what_fails_is_one_line(project, sshd, tiny, tmp_path):
    keygen(tmp_path / "stranger")
    with pytest.raises(UserError, match=r"takes none of your keys .*ssh-copy-id"):
        board(sshd, key=str(tmp_path / "stranger")).identify()
    with pytest.raises(UserError, match="there is no such file"):
        board(sshd, key=str(tmp_path / "nothing")).identify()
    with pytest.raises(UserError, match=r"has no /nowhere/python \(device.python\)"):
        board(sshd, python="/nowhere/python").identify()
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True
    )
    with pytest.raises(
        UserError,
        match=r"has no llama\.cpp: .* set device.python, device.bench or device.install=true",
    ):
        board(
            sshd, python=str(tmp_path / "bare" / "bin" / "python"), bench="no-such-bench"
        ).identify()
    with pytest.raises(Transient, match=r"can't be reached by SSH \(.*\): is the board on"):
        board(sshd, port=free_port()).identify()
    for given, said in (
        (["device=ssh"], "device=ssh needs the board's name or address: device.host=..."),
        (["device.host=pi"], "device.host is for a board: add device=ssh"),
        (["device=shh"], "did you mean 'ssh'?"),
    ):
        done = project.doit("optimize", f"model={tiny}", *given)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    plan = project.doit("plan", f"model={tiny}", *QUICK, *sshd.overrides())
    assert plan.returncode == 2
    assert "hasn't been asked yet what it is: run `doit optimize` first" in plan.stderr


def test_another_board_at_the_address_is_noticed(tmp_path, sshd):
    data = tmp_path / "model.gguf"
    data.write_bytes(b"GGUF")
    there = board(sshd)
    identity = there.identify() | {"memory": 1}
    with pytest.raises(UserError, match=r"isn't what it was \(memory\): refresh=true"):
        there.measure({"job": "speed"}, data, hash_file(data), identity)
    assert list(sshd.blobs.iterdir()) == []


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A random GGUF of some 8 MB."""
    path = tmp_path_factory.mktemp("small") / "model.gguf"
    write(
        path,
        LLAMA
        | {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "vocab_size": 1024,
        },
        tokens=True,
    )
    return path


def ours(sshd):
    """Processes of ours on the board: {pid: which of our files}."""
    found = {}
    for process in sshd.sessions():
        with contextlib.suppress(psutil.Error, StopIteration):
            names = [Path(word).name for word in process.cmdline()]
            found |= dict.fromkeys(
                [process.pid], next(n for n in names if n.startswith(("runner-", "child-")))
            )
    return found


def until(condition, seconds=60):
    """Wait for something that has to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cut_line_ends_what_ran_there(sshd, small):
    said, ended = [], []
    there = board(sshd, said.append)
    identity, endless = there.identify(), JOB | {"repeat": 10**6, "generate": 64}

    def work():
        try:
            there.measure(endless, small, hash_file(small), identity)
        except Transient as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: "child" in "".join(ours(sshd).values()))
    first = [psutil.Process(p) for p in ours(sshd)]
    sshd.hang_up()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in first))
    until(lambda: "child" in "".join(ours(sshd).values()))  # it is taken up again
    second = [psutil.Process(p) for p in ours(sshd)]
    sshd.stop()
    thread.join(60)
    psutil.wait_procs(second, 10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in second)
    assert ended[0].startswith(f"127.0.0.1:{sshd.port} can't be reached by SSH")
    assert len([line for line in said if "was lost" in line]) >= 1


def test_a_time_limit_ends_a_measurement(sshd, small):
    there = board(sshd, timeout_s=1.0)
    found = there.measure(JOB | {"repeat": 10**6}, small, hash_file(small), there.identify())
    with pytest.raises(
        Transient, match=r"stopped after 1 s, its time limit \(device.timeout_s\), in \w+ on here"
    ):
        check_run(found, "here", 1.0)
    assert ours(sshd) == {}


# A llama-bench stands for itself here: its real answers to these very options, recorded (llama.cpp
# of llama-cpp-python 0.3.36).
BENCH = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *--help*) echo "  -lm, --load-mode <auto|none|mmap|mlock|mmap+mlock|dio> (default: auto)" ;;
  *-pg*) echo '[ {{"build_commit": "abc1234", "n_prompt": 112, "n_gen": 16,
                   "samples_ts": [ 658.798 ]}} ]' ;;
  *) echo '[ {{"build_commit": "abc1234", "n_prompt": 32, "n_gen": 0,
               "samples_ts": [ 4007.02, 2450.84 ]}},
             {{"build_commit": "abc1234", "n_prompt": 0, "n_gen": 8,
               "samples_ts": [ 2953.51, 1961.02 ]}} ]' ;;
esac
"""


def test_the_users_llama_bench(sshd, small, tmp_path):
    bench = tmp_path / "llama-bench"
    bench.write_text(BENCH.format(log=tmp_path / "asked"))
    bench.chmod(0o755)
    there = board(sshd, bench=str(bench))
    identity = there.identify()
    assert identity["runtime"] == {
        "kind": "llama-bench",
        "version": hash_file(bench)[:12],
        "path": str(bench),
    }
    given = JOB | {"prompt": 32, "repeat": 2, "kv": "q8_0"}
    found = there.measure(given, small, hash_file(small), identity)
    assert {r["metric"]: r["rates"] for r in found["rows"]} == {
        "pp_tps": [4007.02, 2450.84],
        "tg_tps": [2953.51, 1961.02],
    }
    check_run(found, "here", 60)
    there.measure(JOB | {"job": "memory", "context": 128}, small, hash_file(small), identity)
    asked = [
        line.partition(" -p ")[2]
        for line in (tmp_path / "asked").read_text().splitlines()
        if "--help" not in line
    ]
    assert asked == [
        "32 -n 8 -r 2 -t 1 -o json -v -ctk q8_0 -ctv q8_0 -lm mmap -fa 1",
        "0 -n 0 -pg 112,16 -r 1 -t 1 -o json -v -ctk f16 -ctv f16 -lm none",
    ]


def test_how_a_run_ended():
    run = {
        "rows": [{"error": "LlamaCppError: llama.cpp can't load it", "log": ""}],
        "code": 3,
        "phase": "load",
        "rss": 5 * MIB,
        "late": False,
        "oom_kills": 0,
        "log": "",
    }
    for more, error, said in (
        ({}, Infeasible, "llama.cpp can't load it"),
        ({"log": "alloc_tensor_range: failed to allocate CPU buffer"}, Infeasible, "doesn't fit"),
        ({"oom_kills": 1, "code": -9}, Infeasible, "in load on here, the last reading was 5 MiB"),
        ({"code": -9, "rows": []}, Transient, "ended with -9"),
        ({"late": True}, Transient, "its time limit"),
    ):
        with pytest.raises(error, match=said):
            check_run(run | more, "here", 60)


@pytest.fixture(scope="module")
def broad(tmp_path_factory) -> Path:
    """A Llama of some 32 M parameters: what its types need differs by tens of megabytes."""
    return make_llama(tmp_path_factory.mktemp("broad") / "broad", hidden=1024, layers=3)


def data_beside(model: Path) -> int:
    """Bytes of data that a process has which has loaded a model, beyond the model's own."""
    code = (
        "import sys, re; sys.path.insert(0, sys.argv[1]); import child;"
        "job = {'gguf': sys.argv[2], 'threads': 1, 'kv': 'f16', 'gpu_layers': None, 'job': "
        "'memory'};"
        "child.BoardModel(job, 128, False).open();"
        "print(re.search(r'VmData:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    command = [sys.executable, "-c", code, str(Path(runner.__file__).parent), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024 - model.stat().st_size


def test_a_board_with_too_little_memory_makes_the_study_go_smaller(project, tmp_path, broad, small):
    types = {
        t: shape_of_preset(read_architecture(broad / "config.json"), t).weight_bytes
        for t in ("Q8_0", "Q2_K")
    }
    room = (
        data_beside(small) + (types["Q8_0"] + types["Q2_K"]) // 2 + 4 * MIB
    )  # buffers of a wider model
    sshd = Sshd(tmp_path / "small", data=room)
    try:
        done = project.doit(
            "optimize",
            "hardware=laptop",
            f"model={broad}",
            "probe=quick",
            "model.check=false",
            "planner=ladder",
            "planner.types=[Q8_0,Q2_K]",
            "planner.rounding=nearest",
            "goal=quality",
            "goal.context=128",
            "texts.second=null",
            "probe.report_tokens=1024",
            *sshd.overrides(),
        )
    finally:
        sshd.stop()
    assert done.returncode == 0, done.stderr + done.stdout
    result = project.result()
    assert result["board"]["limit"] == room
    assert result["winner"]["recipe"]["type"] == "Q2_K"
    assert rows(result["winner"])["device_ram_bytes"]["how"] == "measured"
    largest = next(c for c in result["candidates"] if c["recipe"]["type"] == "Q8_0")
    assert largest["failure"]["kind"] == "out_of_memory"
    assert "it doesn't fit the board's memory: in load on" in largest["failure"]["message"]
    assert "failed  device_memory:broad-Q8_0: out_of_memory" in done.stderr
