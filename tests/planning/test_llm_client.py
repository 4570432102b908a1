"""The line to a language model: the real client against a scripted server on loopback. Nothing here
sleeps but time-outs.
"""

import json
import pickle
import socket
import sqlite3
import stat
import subprocess
import sys
import zlib
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest
from llm_server import Server, body, completion, drip, echo, good, half, hang, says, status, takes

from sintra.planning.llm import client, replies
from sintra.planning.llm.budget import (
    Budget,
    Spending,
    Tariff,
    TokenPrices,
    is_private,
    most_tokens,
    refusal_reason,
)
from sintra.planning.llm.client import Endpoint, LlmClient, Reply
from sintra.planning.llm.replies import load_reply, parse_json, reply_key, store_reply
from sintra.planning.llm.wire import RequestForm, parse_retry_after, without_lengths

KEY = "sk-very-secret-0123456789abcdef"
TEXT = {"type": "string", "maxLength": 40}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["edits"],
    "properties": {"edits": {"type": "array", "maxItems": 4, "items": TEXT}},
}
GOOD = {"edits": ["pin"]}
MANY, NONE = Budget(20, 1_000_000, 1.0), Spending(0, 0, 0.0)


class Asker:
    """Asks a server, and remembers what was said and how long it would have slept."""

    def __init__(self, folder):
        self.folder, self.said, self.slept = folder, [], []

    def __call__(
        self,
        url,
        budget=MANY,
        spending=NONE,
        timeout_s=5.0,
        user="what now?",
        prices=None,
        model="m",
        longest=50,
    ):
        endpoint = Endpoint(url, model, timeout_s, longest)
        asked = LlmClient(
            endpoint, budget, self.folder, self.said.append, prices, self.slept.append
        )
        reply = asked.ask("be brief", user, SCHEMA, spending)
        self.leaks(reply, endpoint)
        return reply

    def leaks(self, *values):
        for text in (*map(repr, values), *self.said):
            assert KEY not in text
            assert "\n" not in text
        for path in self.folder.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SINTRA_LLM_KEY", raising=False)
    monkeypatch.setattr(client, "FORMS", {})


@pytest.fixture
def asker(tmp_path):
    return Asker(tmp_path / "meta" / "llm")


def forms(server):
    return [(a.get("response_format") or {}).get("type") for a in server.asked]


def test_a_good_answer_is_kept(asker):
    with Server(good(GOOD)) as server:
        first = asker(server.url, spending=Spending(2, 1000, 0.5))
        again = asker(server.url)
        other = asker(server.url, user="and now?")
    assert first == Reply(GOOD, Spending(3, 1120, 0.5), False, "")
    assert again == Reply(GOOD, NONE, True, "")
    assert (other.cached, len(server.asked)) == (False, 2)
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert server.paths[0] == "/v1/chat/completions"
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "edits", "strict": True, "schema": SCHEMA},
    }
    assert server.asked[0]["response_format"] == wanted
    assert (server.asked[0]["max_tokens"], "temperature" in server.asked[0]) == (50, False)
    assert [m["content"] for m in server.asked[0]["messages"]] == ["be brief", "what now?"]
    assert asker.said == []


def test_the_key_comes_from_the_environment_at_the_call(asker, monkeypatch):
    with Server(good(GOOD)) as server:
        monkeypatch.setenv("SINTRA_LLM_KEY", "mine\n")
        asker(server.url, user="1")
        monkeypatch.delenv("SINTRA_LLM_KEY")
        monkeypatch.delenv("OPENAI_API_KEY")
        asker(server.url, user="2")
    assert server.keys == ["Bearer mine", "Bearer none"]


@pytest.mark.parametrize("code", [400, 422, 500, 501])
def test_servers_without_json_schema(asker, code):
    with Server(takes("json_object", good(GOOD), code)) as server:
        assert asker(server.url).data == GOOD
        asker(server.url, user="more")
    probed = (
        ["json_schema", "json_schema"] if code == 400 else ["json_schema"]
    )  # the second without lengths, for OpenAI
    assert forms(server) == [*probed, "json_object", "json_object"], "found once, remembered"
    assert server.asked[-1]["response_format"]["schema"] == SCHEMA
    assert "doesn't take json_schema" in asker.said[0]


def test_servers_without_any_form(asker):
    with Server(takes(None, says(f"Sure!\n```json\n{json.dumps(GOOD)}\n```\nDone."))) as server:
        reply = asker(server.url)
    assert (reply.data, reply.spending.calls, reply.spending.tokens) == (GOOD, 3, 120), (
        "what was refused cost calls, no tokens"
    )
    assert forms(server) == ["json_schema", "json_object", None]
    assert (
        json.dumps(SCHEMA, sort_keys=True, separators=(",", ":"))
        in server.asked[-1]["messages"][0]["content"]
    )
    assert asker.slept == []


def test_strict_servers_get_a_schema_without_lengths(asker):
    def openai(handler, asked):
        if "max_tokens" in asked:
            return status(
                400,
                message="Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            )(handler, asked)
        if "maxLength" in json.dumps(asked):
            return status(400, message="'maxLength' is not permitted.")(handler, asked)
        return good(GOOD)(handler, asked)

    with Server(openai) as server:
        assert asker(server.url).data == GOOD
    assert [("max_tokens" in a, "maxLength" in json.dumps(a)) for a in server.asked] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert client.FORMS[server.url] == RequestForm("lengthless", "max_completion_tokens")
    assert without_lengths({"maxLength": {"type": "string"}}) == {
        "maxLength": {"type": "string"}
    }, "a property of that name stays"


def test_a_form_that_worked_is_not_given_up_for_a_passing_fault(asker):
    with Server(good(GOOD), status(500), good(GOOD)) as server:
        asker(server.url)
        assert asker(server.url, user="more").data == GOOD
    assert forms(server) == ["json_schema"] * 3
    assert asker.slept == [1.0]


@pytest.mark.parametrize(
    ("value", "slept"),
    [("7", [7.0]), (None, [1.0]), ("nan", [0.0]), ("-3", [0.0]), ("soon", [1.0])],
)
def test_too_many_requests(asker, value, slept):
    headers = {} if value is None else {"Retry-After": value}
    with Server(status(429, headers), good(GOOD)) as server:
        reply = asker(server.url)
    assert (reply.data, asker.slept, len(server.asked)) == (GOOD, slept, 2)
    assert "again in" in asker.said[0]


def test_too_many_requests_for_good(asker):
    with Server(status(429, {"Retry-After": "1"}, "slow down")) as server:
        reply = asker(server.url)
        assert (reply.data, len(server.asked), asker.slept) == (None, 3, [1.0, 1.0])
    assert reply.trouble.endswith("HTTP 429: slow down")
    assert reply.spending == Spending(3, 0, 0.0)
    with Server(status(429, {"Retry-After": "3600"})) as server:
        reply = asker(server.url)
    assert (len(server.asked), asker.slept) == (1, [1.0, 1.0])
    assert "it asks to wait 3600 s" in reply.trouble


def test_retry_after_can_be_a_date():
    assert parse_retry_after(formatdate(usegmt=True)) == 0
    assert parse_retry_after("Fri, 31 Dec 2999 23:59:59 GMT") > 3000
    assert parse_retry_after("") is None


@pytest.mark.parametrize(("code", "calls"), [(503, 2), (502, 2), (401, 1), (404, 1)])
def test_errors(asker, code, calls):
    with Server(status(code, message="the cat sat on it")) as server:
        reply = asker(server.url)
    assert (reply.data, len(server.asked), reply.spending.tokens) == (None, calls, 0)
    assert reply.trouble == f"{server.url}: HTTP {code}: the cat sat on it"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(asker, code):
    """The prompt and the key go where the user said, and nowhere else."""
    with Server(good(GOOD)) as other:
        away = status(code, {"Location": f"{other.url}/chat/completions?q=secret"})
        with Server(away) as server:
            reply = asker(server.url)
    assert (len(server.asked), other.asked) == (1, [])
    assert reply.data is None
    assert f"HTTP {code}: it redirects to {other.url}/chat/completions" in reply.trouble
    assert "set planner.base_url to that address" in reply.trouble
    assert "secret" not in reply.trouble


def test_a_fault_that_passes(asker):
    with Server(status(503), good(GOOD)) as server:
        assert asker(server.url).data == GOOD
    assert "HTTP 503: no; again in 1 s" in asker.said[0]
    with Server(half, good(GOOD)) as server:
        reply = asker(server.url, user="more")
    assert (reply.data, len(server.asked)) == (GOOD, 2)
    assert "the connection broke off (RemoteProtocolError)" in asker.said[1]
    assert reply.spending.tokens > 120 + 50, "half an answer may have been billed whole"


def test_nobody_there(asker):
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        reply = asker(f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert "no connection (Connection refused)" in reply.trouble
    assert (reply.spending, asker.slept) == (NONE, [1.0])


@pytest.mark.parametrize("behave", [hang, drip])
def test_time_out(asker, behave):
    with Server(behave) as server:
        reply = asker(server.url, timeout_s=0.2)
    assert "no answer within planner.timeout_s=0.2" in reply.trouble
    assert len(server.asked) == 1
    assert reply.spending.tokens > 50, "it may have been billed"


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (says("I would rather not."), "not a JSON object"),
        (says("[1, 2]"), "not a JSON object"),
        (says('{"edits": NaN}'), "not a JSON object"),
        (says('{"edits": ["\\ud800"]}'), "not a JSON object"),
        (says("[" * 60_000), "not a JSON object"),
        (says(""), "nothing was said"),
        (says(None), "nothing was said"),
        (good({"edits": "pin"}), "$.edits: 'pin' is not of type 'array'"),
        (good({"edits": [], "run": "rm"}), "'run' was unexpected"),
        (good({"edits": ["x" * 100_000]}), "65536 at most"),
        (says('{"edits": ["pi', finish="length"), "planner.max_reply_tokens=50"),
    ],
)
def test_what_is_wrong_is_told_once(asker, bad, wrong):
    with Server(bad) as server:
        reply = asker(server.url)
    assert (reply.data, len(server.asked), reply.spending.calls) == (None, 2, 2)
    assert reply.trouble.startswith("the reply was refused twice: ")
    assert wrong in reply.trouble
    told = server.asked[1]["messages"]
    assert (len(told), told[2]["role"], told[3]["role"]) == (4, "assistant", "user")
    assert wrong in told[3]["content"]
    assert len(told[2]["content"]) <= 2000
    with Server(bad, good(GOOD)) as server:
        assert asker(server.url, user="more").data == GOOD
        assert asker(server.url, user="more").cached


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"choices": []}, "no choices"),
        ({"error": {"message": "overloaded"}}, "overloaded"),
        ({"choices": [{"message": 3}]}, "no choices"),
        ({"choices": None}, "no choices"),
        (b"<html>hello</html>", "not a chat completion"),
        ([1], "not a chat completion"),
        (b"[" * 100_000, "not a chat completion"),
        (b" " * (1 << 21), "larger than"),
    ],
)
def test_what_is_no_answer_at_all(asker, value, wrong):
    with Server(body(value)) as server:
        reply = asker(server.url)
    assert (reply.data, len(server.asked), reply.spending.calls) == (None, 1, 1)
    assert wrong in reply.trouble


@pytest.mark.parametrize(
    ("budget", "says_why"),
    [
        (Budget(20, 10**6, 0.0), "planner.max_usd is 0"),
        (Budget(0, 10**6, 1.0), "planner.max_calls is 0"),
        (Budget(0, 0, None), "planner.max_calls is 0"),
        (Budget(20, 0, None), "planner.max_tokens is 0"),
        (Budget(20, 100, None), "the next call may take"),
        (Budget(20, 10**6, float("nan")), "planner.max_usd is nan"),
    ],
)
def test_no_budget_no_request(asker, budget, says_why):
    with Server(good(GOOD)) as server:
        reply = asker(server.url, budget)
        assert (reply.data, reply.spending, server.asked) == (None, NONE, [])
        assert says_why in reply.trouble
        asker(server.url)
        assert asker(server.url, budget).data == GOOD, "what is kept costs nothing"
    assert len(server.asked) == 1


def test_the_budget_is_checked_before_every_call(asker):
    with Server(good({"edits": 1})) as server:
        reply = asker(server.url, Budget(1, 10**6, None))
        assert (len(server.asked), reply.spending.calls) == (1, 1)
        assert reply.trouble == "planner.max_calls is 1, 1 were made"
    with Server(status(429)) as server:
        assert asker(server.url, Budget(2, 10**6, None)).spending.calls == len(server.asked) == 2
    prices = TokenPrices(0.0, 1000.0)  # 50 tokens of reply: 0.05 at most, 0.02 by the usage
    with Server(good({"edits": 1})) as server:
        reply = asker(server.url, Budget(9, 10**6, 0.06), prices=prices)
    assert len(server.asked) == 1
    assert reply.spending.usd == pytest.approx(0.02)
    assert "0.020000 are spent, the next call may cost 0.050000" in reply.trouble


@pytest.mark.parametrize("usage", [None, (0, 0), (-5, 20), (True, 2), (10**12, 1)])
def test_usage_that_is_missing_or_absurd_is_estimated(asker, usage):
    with Server(good(GOOD, usage=usage)) as server:
        reply = asker(server.url)
    assert 5 < reply.spending.tokens < 200


def test_prices():
    assert Tariff("m", TokenPrices(1.0, 2.0)).usd(10**6, 10**6) == 3.0
    assert Tariff("gpt-4o", None, "https://api.openai.com/v1").usd(1000, 0) > 0
    proxy = Tariff("gpt-4o", None, "https://proxy.example.com/v1")
    assert proxy.usd(1000, 0) > 0, "whoever sells it"
    assert Tariff("no-such", None, "http://localhost:11434/v1").usd(1000, 0) == 0
    assert Tariff("no-such", None, "https://example.com/v1").usd(1000, 0) is None
    assert Tariff("gpt-4o", TokenPrices(0, 0), "http://localhost/v1").usd(1000, 0) == 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/v1", True),
        ("http://[::1]/v1", True),
        ("http://192.168.1.4/v1", True),
        ("http://ollama:11434", True),
        ("http://a.local/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://8.8.8.8", False),
        ("https://localhost.evil.com", False),
        ("https://127.0.0.1@evil.com/v1", False),
        ("", False),
    ],
)
def test_private_hosts(url, expected):
    assert is_private(url) is expected


def test_an_unknown_price_is_no_price():
    there = Tariff("no-such", None, "https://example.com/v1")
    refusal = refusal_reason(MANY, NONE, 10, 10, there)
    assert "set planner.price_input and planner.price_output" in refusal
    assert refusal_reason(Budget(1, 100, None), NONE, 10, 10, there) is None
    priced = Tariff("no-such", TokenPrices(1, 1), there.base_url)
    assert refusal_reason(MANY, NONE, 10, 10, priced) is None
    assert most_tokens(["\u00e9\u20ac"]) >= 5, "a token is a byte at least"


def test_secrets_never_come_out(asker):
    with Server(echo) as server:
        url = server.url.replace("//", "//me:hunter2@") + "?token=topsecret"
        for reply in (asker(server.url), asker(url)):
            assert reply.data is None
            assert all(
                word not in reply.trouble + str(asker.said)
                for word in (KEY, "hunter2", "topsecret", "\x1b", "Bearer ")
            )
        assert "HTTP 401: bad *** at /v1/chat/completions" in asker(server.url).trouble
    assert "hunter2" not in repr(Endpoint(url, "m", 1.0, 1))
    with Server(good({"edits": [KEY]})) as server:
        assert asker(server.url).trouble == "the reply has the key in it"
    with Server(says('{"edits": ["\\u0073' + KEY[1:] + '"]}')) as server:
        assert asker(server.url).trouble == "the reply has the key in it"
    with Server(says(KEY)) as server:
        asker(server.url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://[bad/v1",
        "ftp://127.0.0.1/v1",
        "http://127.0.0.1:x/v1",
        "http://\n/v1",
    ],
)
def test_no_address(asker, url):
    reply = asker(url, Budget(9, 10**6, None))
    assert (reply.data, reply.spending) == (None, NONE)
    assert reply.trouble


def test_a_key_that_no_header_takes(asker, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n\u20ac")
    with Server(good(GOOD)) as server:
        reply = asker(server.url)
    assert (reply.data, server.asked) == (None, [])
    assert reply.trouble


def test_credentials_are_no_part_of_the_key_of_a_reply():
    one = reply_key("http://me:pw@h:1/v1/?k=v", "m", "s", "u", SCHEMA)
    assert one == reply_key("http://h:1/v1", "m", "s", "u", SCHEMA)
    assert one != reply_key("http://h:2/v1", "m", "s", "u", SCHEMA)


def test_the_folder_is_the_users_alone(tmp_path):
    folder = tmp_path / "llm"
    folder.mkdir(mode=0o755)
    assert load_reply(tmp_path / "nothing", "k", SCHEMA) is None
    assert not (tmp_path / "nothing").exists()
    assert store_reply(folder, "k", GOOD)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_reply(folder, "k", SCHEMA) == GOOD
    assert load_reply(folder, "k", SCHEMA | {"required": ["else"]}) is None, (
        "held against the schema again"
    )
    with closing(replies.open_cache(folder)) as kept:
        assert kept.eviction_policy == "none"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def plant(folder, key, mode, filename, value):
    database = sqlite3.connect(folder / "cache.db")
    with closing(database):
        row = (zlib.compress(json.dumps(key).encode(), 1), 1, 0.0, mode, filename, value)
        database.execute("DELETE FROM Cache")
        database.execute(
            (
                "INSERT INTO Cache (key, raw, store_time, mode, filename, value) VALUES (?, ?, ?, "
                "?, ?, ?)"
            ),
            row,
        )
        database.commit()


def test_a_planted_pickle_is_never_unpickled(asker, tmp_path):
    mark, lying = tmp_path / "mark", tmp_path / "lying.pickle"
    lying.write_bytes(pickle.dumps(Bomb(mark)))
    key = reply_key("http://h", "m", "s", "u", SCHEMA)
    assert store_reply(tmp_path / "llm", key, GOOD)
    for mode, filename, value in (
        (4, None, lying.read_bytes()),
        (4, str(lying), None),
        (2, str(lying), None),
        (1, None, b"junk"),
    ):
        plant(tmp_path / "llm", key, mode, filename, value)
        assert load_reply(tmp_path / "llm", key, SCHEMA) is None
        assert store_reply(tmp_path / "llm", key, GOOD)
        assert load_reply(tmp_path / "llm", key, SCHEMA) == GOOD
    assert not mark.exists()
    assert lying.exists(), "nor does a row delete the file that it names"
    pickle.loads(lying.read_bytes())
    assert mark.exists(), "the bomb is one"


def test_with_a_planted_pickle_the_model_is_asked(asker, tmp_path):
    with Server(good(GOOD)) as server:
        asker(server.url)
        key = reply_key(server.url, "m", "be brief", "what now?", SCHEMA)
        plant(asker.folder, key, 4, None, pickle.dumps(Bomb(tmp_path / "mark")))
        assert not asker(server.url).cached
        assert asker(server.url).cached
    assert (len(server.asked), (tmp_path / "mark").exists()) == (2, False)


def test_a_damaged_cache_loses_no_answer(asker):
    asker.folder.mkdir(parents=True)
    (asker.folder / "cache.db").write_bytes(b"no database" * 1000)
    with Server(good(GOOD)) as server:
        assert asker(server.url).data == GOOD
    assert "could not be kept" in asker.said[0]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ("```\n{}\n```", {}),
        ('Here: {"a": {"b": 2}} and that is it', {"a": {"b": 2}}),
        ('<think>maybe {"a": 2}?</think>\n{"a": 1}', {"a": 1}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('{"a": 1', None),
        ("", None),
        ("3", None),
        ('{"a": 1e999}', None),
    ],
)
def test_json_among_words(text, data):
    assert parse_json(text) == data


def test_what_is_imported_costs_nothing_until_it_is_used():
    heavy = ["openai", "diskcache", "genai_prices", "jsonschema", "httpx2", "pydantic"]
    code = (
        "import sys, sintra.planning.llm.client, sintra.planning.llm.replies, "
        f"sintra.planning.llm.budget; sys.exit(bool({heavy!r} & sys.modules.keys()))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code.replace(repr(heavy), repr(set(heavy)))]
        ).returncode
        == 0
    )


def test_completion_is_what_the_openai_client_reads():
    from openai.types.chat import ChatCompletion

    assert ChatCompletion.model_validate(completion("x")).choices[0].message.content == "x"
