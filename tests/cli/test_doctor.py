"""`doit doctor`: in a bare environment, here, and without a request that nobody asked for."""

import http.server
import json
import subprocess
import sys
import threading
import venv
from types import SimpleNamespace

import pytest
from conftest import ROOT

from sintra.cli.commands.doctor import lines_of, summary
from sintra.cli.doctor import packages, resources, runtimes
from sintra.cli.doctor.check import Check

START = ("-c", "from sintra.cli.main import main; main()", "doctor")


def doctor(folder, *words, python=sys.executable, **more):
    """Run `sintra doctor` in a folder; returns the process."""
    return subprocess.run(
        [str(python), *START, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **more},
        check=False,
    )


def by_name(done):
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


class Index(http.server.BaseHTTPRequestHandler):
    """The hub, and an index of packages that has one."""

    asked: list[str] = []  # noqa: RUF012 - of one test, which makes a class of its own

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b'<a href="llama_cpp_python-0.3.36.tar.gz">llama</a>')

    def log_message(self, *_):
        pass


@pytest.fixture
def network():
    """A server on loopback and what it was asked."""
    handler = type("Handler", (Index,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=handler.asked)
    server.shutdown()


def test_a_bare_environment_gets_a_command_for_each_package(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    done = doctor(tmp_path, "--format", "json", python=tmp_path / "bare" / "bin" / "python")
    assert (done.returncode, done.stderr) == (1, "")
    checks = by_name(done)
    assert checks["torch"]["state"] == "bad"
    assert checks["torch"]["mend"].startswith("pip install -c constraints.txt torch==")
    assert checks["scipy"]["mend"] == "pip install -c constraints.txt 'scipy>=1.11'"
    assert checks["extra optuna"]["mend"] == "pip install -c constraints.txt -e '.[optuna]'"
    assert checks["cores"]["state"] == "ok"
    assert not any((tmp_path / name).exists() for name in ("cache", "outputs"))


def test_no_request_unasked(tmp_path, network):
    more = {"HF_ENDPOINT": network.url, "PIP_INDEX_URL": f"{network.url}/simple", "no_proxy": "*"}
    done = doctor(tmp_path, "--format=json", **more)
    assert network.asked == []
    checks = by_name(done)
    assert checks["llama.cpp"]["state"] == "ok", done.stdout
    assert "hub" not in checks
    done = doctor(tmp_path, "--online", "--format=json", **more)
    assert "/api/models?limit=1" in network.asked
    assert by_name(done)["hub"]["state"] == "ok"
    assert by_name(done)["pip's index"]["state"] == "ok", done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--format", "xml"), "text or json"),
        (("--onlin",), "--online and --format"),
        (("goal.max_kld=1",), "store.path=FOLDER"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_one_line(tmp_path, words, says):
    done = doctor(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_a_cache_that_cant_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    disk, cache = resources.cache_checks(tmp_path / "file")
    assert disk.state != "bad"
    assert (cache.state, cache.mend) == ("bad", "set store.path=FOLDER")
    assert resources.cache_checks(tmp_path / "new" / "cache")[1].state == "ok"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_build_for_an_older_processor_is_said():
    machine = SimpleNamespace(isa=("avx512f", "avx2"), gpus=())
    found = {"system": "CPU : SSE3 = 1 | AVX2 = 1 | ", "devices": [], "offload": False}
    check = runtimes.instruction_check(found, machine, "pip install it")
    assert (check.state, check.mend) == ("note", "pip install it")
    assert "avx512f" in check.found
    both = found | {"system": "AVX2 = 1 | AVX512 = 1"}
    assert runtimes.instruction_check(both, machine, "").state == "ok"


def test_a_card_that_goes_unused_is_said():
    machine = SimpleNamespace(gpus=(SimpleNamespace(backend="cuda", name="RTX\x1b[2J"),))
    found = {"devices": [], "offload": False}
    check = runtimes.backend_check(found, machine, "pip install it")
    assert check.mend == "CMAKE_ARGS=-DGGML_CUDA=on pip install it"
    assert "\x1b" not in check.found
    assert runtimes.backend_check(found | {"offload": True}, machine, "").state == "ok"


def test_versions_beside_requirements_and_pins():
    needs = packages.Needs(
        ("doit>=99", "no-such-package-of-ours"),
        {"a": ("sintra[b]",), "b": ("no-such-package-of-ours[x]>=2", "sintra[a]")},
        {"pytest": "0.1", "doit": "99.0"},
    )
    check = packages.package_check("doit>=99", needs)
    assert (check.state, check.mend) == ("bad", "pip install -c constraints.txt doit==99.0")
    assert packages.package_check("pytest>=1", needs).state == "note"
    assert packages.extra_check("a", needs).found == "lacks no-such-package-of-ours"
    assert packages.extra_check("a", needs).mend == "pip install -c constraints.txt 'sintra[a]'"


def test_what_an_installed_wheel_needs_is_in_its_metadata(tmp_path):
    """No pyproject.toml stands beside it."""
    needs = packages.read_needs(tmp_path)
    assert "numpy" in map(packages.base_name, needs.required)
    assert "optuna" in needs.extras
    assert not set(needs.required) & set(needs.extras["optuna"])
    assert needs.extra_command("optuna") == "pip install 'sintra[optuna]'"
    assert needs.command("scipy>=1.11") == "pip install 'scipy>=1.11'"


def test_lines_are_80_columns_and_the_command_stays_whole():
    check = Check("memory", "bad", "word " * 40, "pip install " + "x" * 90)
    *lines, mend = lines_of(check)
    assert max(map(len, lines)) <= 80
    assert mend.strip() == check.mend
    assert summary([check]) == "to be mended: memory"
