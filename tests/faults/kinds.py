"""Things of other kinds that may lie where a file of ours should be, and a limit against hangs."""

import contextlib
import os
import shutil
import signal

JSON_SHAPES = ("[]", "5", '"text"', "null", "{}", '{"key": 5}', '[{"a": [1]}]', "[" * 20_000, "")


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder(path):
    path.mkdir()
    (path / "inside").write_text("somebody's")


def loop(path):
    path.symlink_to(path.name)


def fifo(path):
    os.mkfifo(path)


def dangling(path):
    path.symlink_to("nowhere")


def device(path):
    path.symlink_to("/dev/zero")


KINDS = {
    "folder": folder,
    "looped link": loop,
    "FIFO": fifo,
    "dangling link": dangling,
    "endless device": device,
}


def put(path, kind):
    """Put a thing of this kind where the path is; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)
    if kind in KINDS:
        KINDS[kind](path)
    else:
        path.write_text(kind)


@contextlib.contextmanager
def limit(seconds):
    """Raise TimeoutError where the block hangs."""

    def late(number, frame):
        raise TimeoutError("it hung")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
