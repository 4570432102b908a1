"""`sintra mcp` by the official package's client over stdio, and its answers by themselves."""

import asyncio
import json
import os
import sys

import pytest

from sintra.core.errors import UserError
from sintra.integrations.assistant import answers
from sintra.integrations.assistant.answers import Wanted

READING = {
    "devices",
    "estimate",
    "plan",
    "studies",
    "result",
    "compare",
    "why",
    "explain",
    "progress",
}


def with_option(option):
    return Wanted("fable", "laptop", options=(option,))


def talk(root, calls, *words):
    """Start the server in a project; return its tools by name and the answer to each call."""
    pytest.importorskip("mcp", reason="the extra mcp isn't installed")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "doit", "mcp", *words],
        cwd=root,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    async def ask():
        async with Client(server) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            return tools, [await client.call_tool(name, given) for name, given in calls]

    return asyncio.run(ask())


def test_a_client_reads_and_nothing_else(finished):
    """Text of errors is one line of ours; what isn't there without --write can't be called."""
    calls = [
        ("devices", {}),
        ("estimate", {"model": "fable_mini", "hardware": "raspberry_pi_5"}),
        ("result", {}),
        ("result", {"study": "../../etc"}),
        ("progress", {"study": "latest", "wait_s": 5}),
        ("optimize", {"model": "fable_mini", "hardware": "raspberry_pi_5"}),
    ]
    before = sorted(p.name for p in (finished.root / "outputs").iterdir())
    tools, found = talk(finished.root, calls)
    assert set(tools) == READING
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    devices, estimate, result, wrong, progress, absent = found
    assert "raspberry_pi_5" in {d["name"] for d in devices.structured_content["devices"]}
    rows = estimate.structured_content["estimates"]
    assert {row["type"] for row in rows} >= {"Q4_K_M", "Q8_0"}
    assert all(row["device_tg_tps"]["how"] == "estimated" for row in rows)
    written = json.loads((finished.root / "outputs" / "latest" / "result.json").read_text())
    assert result.structured_content["winner"] == written["winner"]
    assert wrong.is_error
    assert "unknown study '../../etc'" in wrong.content[0].text
    assert progress.structured_content["state"] == written["status"]
    assert absent.is_error
    assert sorted(p.name for p in (finished.root / "outputs").iterdir()) == before


def test_what_starts_and_stops_is_there_with_write(finished):
    tools, [stopped] = talk(finished.root, [("stop", {"study": "latest"})], "--write")
    assert set(tools) == READING | {"optimize", "stop"}
    assert not tools["optimize"].annotations.read_only_hint
    assert stopped.structured_content["stopped"] is False


def test_winners_side_by_side(finished):
    rows = answers.compare(finished.root, ["latest"])["studies"]
    assert len(rows) == 1
    assert rows[0]["kld_mean"] > 0
    assert rows[0]["kld_error"] > 0


def test_a_step_and_a_file_are_explained(finished):
    study = answers.find_study(answers.Studies(finished.root), "latest")
    assert "hit" in answers.why(finished.root, study, "convert:fable_mini")["why"]
    found = answers.explain(finished.root, "outputs/latest/model.gguf")
    assert found["architecture"] == "qwen2"


def test_a_study_that_has_just_been_started_is_known(tmp_path, monkeypatch):
    """Its process leaves its note only once it has begun; its log is there from the start."""
    (tmp_path / "cache" / "runs").mkdir(parents=True)
    (tmp_path / "cache" / "runs" / "mine.log").write_text("sintra: no texts\n")
    with pytest.raises(UserError, match="unknown study"):
        answers.progress(tmp_path, "mine")
    monkeypatch.setattr(answers, "_started", {"mine"})
    found = answers.progress(tmp_path, "mine")
    assert (found["state"], found["log"]) == ("stopped", ["sintra: no texts"])


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda r: answers.result(r, "../../etc"), "unknown study"),
        (lambda r: answers.progress(r, "x" * 5000), "unknown study"),
        (lambda r: answers.plan(r, Wanted("fable", "my_phone")), "no hardware is called"),
        (lambda r: answers.plan(r, Wanted("fable", "laptop", "huge")), "no goal is called"),
        (lambda r: answers.plan(r, Wanted("fable", "laptop", planner="llm")), "solver or ladder"),
        (lambda r: answers.plan(r, with_option("model.trust_remote_code=true")), "can't be set"),
        (lambda r: answers.plan(r, with_option("seed=1 probe.run_code=true")), "expected key="),
        (lambda r: answers.plan(r, with_option("device.host=elsewhere")), "can't be set"),
        (lambda r: answers.estimate(r, "fable", "", "--out"), "is not a name"),
        (lambda r: answers.estimate(r, "${oc.env:HOME}", "", "Q8_0"), "is not a name"),
        (lambda r: answers.explain(r, "--help"), "is not a path"),
        (lambda r: answers.explain(r, "gone.gguf"), "there is no file"),
        (lambda r: answers.why(r, "latest", "-x"), "is not a name"),
    ],
)
def test_what_an_assistant_sends_is_data(finished, ask, says):
    with pytest.raises(UserError, match=says) as error:
        ask(finished.root)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
