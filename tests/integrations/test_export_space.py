"""The Space: its page started as the hub starts it, and driven in a browser."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from sintra.integrations.exports import space
from sintra.store.store import Store

CHROMIUM = shutil.which("chromium")
GRADIO = importlib.util.find_spec("gradio")


@pytest.fixture(scope="module")
def out(finished):
    folder = (finished.root / "outputs" / "latest").resolve()
    space.export(folder, Store(finished.root / "cache"), title="Valley")
    return folder / "space"


def started(folder):
    """app.py on a free port; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = {
        **os.environ,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    app = subprocess.Popen(
        [sys.executable, folder / "app.py"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return app, f"http://127.0.0.1:{port}/"


def wait_for(app, url):
    for _ in range(600):
        if app.poll() is not None:
            raise AssertionError(app.stdout.read().decode())
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")


def test_front_matter_and_requirements(out):
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert {k: said[k] for k in ("title", "sdk", "app_file", "sdk_version")} == {
        "title": "Valley",
        "sdk": "gradio",
        "app_file": "app.py",
        "sdk_version": space.GRADIO,
    }
    assert "# Valley" in text
    assert (out / "requirements.txt").read_text() == "llama-cpp-python==0.3.36\n"
    assert "*.gguf filter=lfs" in (out / ".gitattributes").read_text()
    compile((out / "app.py").read_text(), "app.py", "exec")


@pytest.mark.skipif(GRADIO is None or CHROMIUM is None, reason="needs sintra[space] and chromium")
def test_it_answers_in_a_browser(out):
    from playwright.sync_api import sync_playwright

    app, url = started(out)
    try:
        wait_for(app, url)
        with sync_playwright() as player:
            page = player.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"]
            ).new_page()
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            box = page.get_by_role("textbox").first
            for turn, words in enumerate(("Nora had two plums.", "Where is Nora?"), 1):
                box.wait_for(timeout=60_000)
                box.fill(words)
                box.press("Enter")
                said = page.locator(".message.bot").nth(turn - 1)
                said.wait_for(timeout=60_000)
                words_there = (
                    "n => document.querySelectorAll('.message.bot')[n].innerText.trim().length > 3"
                )
                page.wait_for_function(words_there, arg=turn - 1, timeout=60_000)
            assert page.title() == "Valley"
            strange = [u for u in asked if not u.startswith((url, "data:", "blob:"))]
            assert strange == [], "nothing is loaded from elsewhere"
    finally:
        app.terminate()
        app.wait(30)


@pytest.mark.skipif(GRADIO is None, reason="needs sintra[space]")
def test_it_refuses_another_model(out, tmp_path):
    shutil.copytree(out, tmp_path / "space", copy_function=shutil.copyfile)
    with Path(tmp_path / "space" / "model.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    app, _ = started(tmp_path / "space")
    words, _ = app.communicate(timeout=120)
    assert app.returncode == 1
    assert b"has the SHA-256" in words
