"""A format is one file and one line: a toy one, which delivers Q8_0 under a name of its own."""

from conftest import QUICK, make_project
from hooks import plugin

TWIN = """
from sintra.build.formats import gguf
from sintra.core.format import Format
from sintra.core.recipe import Recipe

PLAIN = Recipe("Q8_0")


def make(graph, recipe):
    return graph.quantize(PLAIN)


def measure(graph, recipe, level):
    return gguf.measure(graph, PLAIN, level)


FORMAT = Format("twin", "llama.cpp", make, measure, kind=lambda study: "Q8_0")
"""


def test_a_format_of_a_plugin_is_made_measured_and_delivered(tmp_path, studied, tiny, monkeypatch):
    folder = plugin(tmp_path / "plugins", "twins", TWIN, {"formats": {"twin": "twins:FORMAT"}})
    project = make_project(tmp_path / "project", studied.root / "cache")
    words = ("optimize", "hardware=laptop", f"model={tiny}", *QUICK)
    unknown = project.doit(*words, "formats=[gguf,twin]")
    assert unknown.returncode == 2
    assert "formats has 'twin'" in unknown.stderr

    monkeypatch.setenv("PYTHONPATH", str(folder))
    done = project.doit(*words, "formats=[gguf,twin]")
    assert done.returncode == 0, done.stderr
    row = next(r for r in project.result()["formats"] if r["format"] == "twin")
    assert (row["runtime"], row["status"]) == ("llama.cpp", "pass")
    assert (project.root / "outputs" / "latest" / "twin" / "model.gguf").is_file()
    assert project.built(project.doit(*words, "formats=[gguf,twin]")) == []
