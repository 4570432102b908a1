"""Code that a model writes: what it can do (nothing), who decides (the tests), and what is refused.

As root and as an ordinary user, against real files, processes and sockets of that user's own.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from sintra.core.errors import UserError
from sintra.core.jail import confine, landlock, seccomp
from sintra.core.jail.user import CAP_DAC_READ_SEARCH, PR_SET_KEEPCAPS
from sintra.core.process import peak_rss
from sintra.probes.evaluation import code

NOBODY = 65534
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
PR_SET_NO_NEW_PRIVS = 38
USERS = ["root", "ordinary"]

pytestmark = pytest.mark.skipif(
    bool(confine.missing_parts()), reason=f"no jail here: {confine.missing_parts()}"
)


def become_ordinary():
    """Between fork and exec: a user without rights, who can still read where Python lies."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    header, mask = b"\x22\x05\x08\x20\0\0\0\0", CAP_DAC_READ_SEARCH.to_bytes(4, "little")
    libc.capset(header, mask * 3 + bytes(12))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 2, 0, 0)


def as_user(user, script, *words, before=None):
    """Run a Python script as root or as an ordinary user; return what it prints, as JSON."""
    if user == "root" and os.getuid():
        pytest.skip("these tests run as an ordinary user")
    change = become_ordinary if user == "ordinary" and not os.getuid() else None
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        preexec_fn=lambda: [f() for f in (change, before) if f],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


ATTACKS = """
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def tried():
    path, unix, victim = PLACES
    done = []
    def attempt(name, action):
        try:
            if action() not in (-1, False):
                done.append(name)
        except (OSError, RuntimeError):
            pass
    def call(number, *args):
        return lambda: libc.syscall(number, *args)
    def connect(kind, address):
        def action():
            s = socket.socket(kind, socket.SOCK_STREAM)
            s.connect(address)
        return action
    name = path.encode()
    attempt("truncate", lambda: os.truncate(path, 0))
    attempt("O_TRUNC", lambda: os.open(path, os.O_RDONLY | os.O_TRUNC))
    attempt("append", lambda: open(path, "a"))
    attempt("write", lambda: open(path, "r+"))
    attempt("chmod", lambda: os.chmod(path, 0o777))
    attempt("utime", lambda: os.utime(path, (1, 1)))
    attempt("xattr", lambda: os.setxattr(path, "user.x", b"1"))
    attempt("unlink", lambda: os.unlink(path))
    attempt("rename", lambda: os.rename(path, path + "x"))
    attempt("mkdir", lambda: os.mkdir(path + "d"))
    attempt("symlink", lambda: os.symlink(path, path + "l"))
    attempt("mknod", lambda: os.mkfifo(path + "f"))
    attempt("read", lambda: open(path).read())
    attempt("list", lambda: os.listdir(os.path.dirname(path)))
    attempt("environ", lambda: open(f"/proc/{os.getppid()}/environ").read())
    attempt("O_PATH", lambda: os.open(path, os.O_PATH))
    attempt("kill", lambda: os.kill(victim, signal.SIGKILL))
    attempt("kill parent", lambda: os.kill(os.getppid(), 0))
    attempt("kill group", lambda: os.kill(-1, 0))
    attempt("pidfd", lambda: os.pidfd_open(victim))
    attempt("F_SETOWN", lambda: __import__("fcntl").fcntl(0, 8, victim))
    attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, victim, 19))
    attempt("prlimit", lambda: __import__("resource").prlimit(victim, 7, (0, 0)))
    attempt("unix socket", connect(socket.AF_UNIX, unix))
    attempt("tcp socket", connect(socket.AF_INET, ("127.0.0.1", PORT)))
    attempt("socketpair", lambda: socket.socketpair())
    attempt("fork", lambda: os.fork())
    attempt("thread", lambda: __import__("_thread").start_new_thread(print, ()))
    attempt("exec", lambda: os.execv("/bin/true", ["true"]))
    attempt("spawn", lambda: __import__("subprocess").run(["/bin/true"]))
    attempt("setsid", lambda: os.setsid())
    attempt("ptrace", lambda: libc.ptrace(16, victim, 0, 0))
    attempt("unshare", lambda: libc.unshare(0x10000000))
    attempt("mount", lambda: libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0))
    attempt("memfd", lambda: os.memfd_create("x"))
    attempt("io_uring", call(425, 1, ctypes.create_string_buffer(128)))
    attempt("keyctl", lambda: libc.syscall(250, 0, -3, 0))
    attempt("setuid", lambda: os.setuid(0))
    attempt("capset", lambda: libc.capset(bytes([34, 5, 8, 32, 0, 0, 0, 0]), bytes(24)))
    attempt("prctl", lambda: libc.prctl(1, 0, 0, 0, 0))
    return done, os.getuid()
"""

SCRIPT = """
import json, sys
from sintra.probes.evaluation import code
program, tests = sys.argv[1:3]
outcome = code.run_tests(program, tests)
print(json.dumps([outcome.passed, outcome.reason]))
"""


@pytest.mark.parametrize("user", USERS)
def test_a_program_reaches_nothing_of_its_users(tmp_path_factory, user):
    folder = tmp_path_factory.getbasetemp().parent / f"victim-{user}-{os.getpid()}"
    folder.mkdir(mode=0o777)
    path = folder / "mine.txt"
    path.write_text("precious")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(folder / "agent.sock"))
        unix.listen()
        if user == "ordinary" and not os.getuid():
            for item in (folder, *folder.iterdir()):
                os.chown(item, NOBODY, NOBODY)
        victim = subprocess.Popen(
            ["sleep", "60"],
            preexec_fn=become_ordinary if user == "ordinary" and not os.getuid() else None,
        )
        before = (path.read_bytes(), path.stat(), os.listxattr(path))
        places = (str(path), str(folder / "agent.sock"), victim.pid)
        program = f"PLACES = {places!r}\nPORT = {tcp.getsockname()[1]}\n{ATTACKS}"
        wanted = "done, user = tried()\nassert done == [], done\nassert user != 0, user"
        try:
            assert as_user(user, SCRIPT, program, wanted) == [True, ""]
            after = (path.read_bytes(), path.stat(), os.listxattr(path))
            assert after[0] == before[0]
            assert (after[1].st_mode, after[1].st_mtime_ns) == (
                before[1].st_mode,
                before[1].st_mtime_ns,
            )
            assert after[2] == before[2]
            assert victim.poll() is None
            assert sorted(p.name for p in folder.iterdir()) == ["agent.sock", "mine.txt"]
            unix.setblocking(False)
            with pytest.raises(BlockingIOError):
                unix.accept()
        finally:
            victim.kill()
            victim.wait()


@pytest.mark.parametrize(
    ("program", "tests", "passes"),
    [
        ("def f(x):\n    return x + 1", "assert f(1) == 2", True),
        ("def f(x):\n    return x - 1", "assert f(1) == 2", False),
        ("import sys\nsys.exit(0)", "assert False", False),
        ("import os\nos._exit(0)", "assert False", False),
        ("x = 'a' * 2**33", "", False),
        ("import os\nassert not os.environ.get('HOME')", "", True),
        ("import sintra", "", False),
        (
            "class Any:\n    def __eq__(self, other):\n        return True\n"
            "def f(x):\n    return Any()",
            "assert f(1) == 2",
            False,
        ),
        (
            "import gc, os\nfor o in gc.get_objects():\n"
            "    if type(o).__name__ == 'Peer':\n"
            "        o.perform = lambda *a: ['value', True, ['list', []]]\n"
            "for n in range(32):\n    try:\n"
            '        os.write(n, b\'{"passed": ""}\')\n    except OSError:\n        pass',
            "assert f(1) == 2",
            False,
        ),
        (
            "def f(g):\n    g.__globals__['f'] = lambda g: True\n    return False",
            "assert f(lambda: 0)",
            False,
        ),
    ],
)
def test_the_tests_decide(program, tests, passes):
    assert code.run_tests(program, tests, seconds=3).passed is passes


def test_tests_use_a_programs_functions_classes_and_errors():
    """What is usual in tests: values, classes, exceptions, callbacks, generators, lists changed in
    place, names that the program has imported.
    """
    program = """
import math
from collections import Counter, namedtuple
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def __add__(self, other): return Point(self.x + other.x)
    def __len__(self): return 3
class TooMuch(ValueError): pass
Pair = namedtuple("Pair", "a b")
def fail(): raise TooMuch("no")
def sort(items): items.sort()
def apply(function, items): return [function(i) for i in items]
def count(text): return Counter(text)
def numbers():
    yield from range(3)
def big(): return 2 ** 70000, float("inf"), (1, {2: b"x"}), {3}
def deep(n): return n and deep(n - 1)
"""
    tests = """
assert Point(1) + Point(2) == Point(3) != Point(4)
point = Point(2)
point.x = 5
assert point.x == 5 and len(point) == 3 and isinstance(point, Point)
try:
    fail()
    assert False
except TooMuch as error:
    assert str(error) == "no"
items = [3, 1, 2]
sort(items)
assert items == [1, 2, 3]
assert apply(lambda i: i + 1, [1]) == [2] and apply(len, ["ab"]) == [2]
assert count("aab") == {"a": 2, "b": 1} and Pair(1, 2) == (1, 2)
assert list(numbers()) == [0, 1, 2] and next(numbers()) == 0
assert big() == (2 ** 70000, float("inf"), (1, {2: b"x"}), {3})
assert math.isclose(math.pi, 3.14159, abs_tol=1e-4)
assert deep(500) == 0
"""
    assert code.run_tests(program, tests) == code.ProgramOutcome(True, "")


def test_what_never_ends_ends(monkeypatch):
    """Sleeping, which costs no CPU time; and nothing is left running."""
    monkeypatch.setattr(code, "STARTUP", 1)
    before = children()
    outcome = code.run_tests("import time\ntime.sleep(600)", "", seconds=1)
    assert outcome == code.ProgramOutcome(False, "stopped after 1 s")
    assert children() <= before


def children():
    """The numbers of this process's children, zombies too; other tests may have left some."""
    return {
        number
        for task in Path("/proc/self/task").iterdir()
        for number in (task / "children").read_text().split()
    }


@pytest.mark.parametrize(
    "program",
    [
        "while True:\n    print('x' * 2**20)",
        "import os\nwhile True:\n    for n in range(16):\n        try:\n"
        "            os.write(n, b'x' * 2**20)\n        except OSError:\n            pass",
        "raise ValueError('\\x1b[2J' + 'x' * 2**24)",
    ],
)
def test_a_flood_stays_outside(program):
    before = peak_rss()
    outcome = code.run_tests(program, "", seconds=1)
    assert not outcome.passed
    assert len(outcome.reason) <= 200
    assert outcome.reason.isprintable()
    assert peak_rss() - before < 20e6


def test_what_runs_besides_has_no_say_in_the_deadline():
    """A verdict is read for so long and no longer, whoever else holds the pipe."""
    ours, theirs = os.pipe()
    holder = subprocess.Popen(["sleep", "60"], pass_fds=(theirs,))
    os.close(theirs)
    try:
        assert code.read_verdict(ours, 0.1) is None
    finally:
        holder.kill()
        holder.wait()
        os.close(ours)


def without(number, argument=None):
    """Return what makes a process live on a kernel that refuses a system call.

    argument: refused only with this first argument.
    """
    parts = [seccomp.instruction(seccomp.LOAD, seccomp.NUMBER)]
    refuse = [seccomp.instruction(seccomp.RETURN, seccomp.DENY)]
    if argument is not None:
        load = seccomp.instruction(seccomp.LOAD, seccomp.ARGUMENTS)
        refuse = [load, seccomp.instruction(seccomp.JUMP_EQUAL, argument, 0, 1), *refuse]
    parts += [seccomp.instruction(seccomp.JUMP_EQUAL, number, 0, len(refuse)), *refuse]
    code = b"".join([*parts, seccomp.instruction(seccomp.RETURN, seccomp.ALLOW)])

    def apply():
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        program = seccomp.Program(len(code) // 8, code)
        assert libc.prctl(seccomp.PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0

    return apply


REFUSAL = """
import json, sys
from sintra.probes.evaluation import code
said = []
for action in (code.check_jail, lambda: code.run_tests("print(1)", "")):
    try:
        said.append(str(action()))
    except code.Refused as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize(
    ("user", "call", "says"),
    [
        ("ordinary", (landlock.CREATE,), "has no Landlock"),
        ("ordinary", (landlock.RESTRICT,), "landlock_restrict_self"),
        ("ordinary", (157, seccomp.PR_SET_SECCOMP), "PR_SET_SECCOMP"),
        ("root", (117,), "root cannot become the user nobody"),  # setresuid
    ],
)
def test_without_a_part_of_it_nothing_runs(user, call, says):
    said = as_user(user, REFUSAL, before=without(*call))
    assert len(said) == 2
    for text in said:
        assert text.startswith("no code of a model's can be run here: ")
        assert says in text
        assert "\n" not in text


def test_every_right_that_the_abi_has():
    assert landlock.handled_rights(1) == ((1 << 13) - 1).to_bytes(8, "little")
    assert landlock.handled_rights(3)[:8] == ((1 << 15) - 1).to_bytes(8, "little")
    assert len(landlock.handled_rights(5)) == 16
    fields = landlock.handled_rights(7)
    assert [int.from_bytes(fields[i : i + 8], "little") for i in (0, 8, 16)] == [2**16 - 1, 3, 3]


def test_check_jail_says_yes_here():
    code.check_jail()
    assert issubclass(code.Refused, UserError)
