"""Who may talk to the dashboard: nobody without the token, on this machine neither."""

import http.client
import urllib.error
import urllib.parse
import urllib.request

import pytest
from conftest import Project, lay_down
from dashboards import Dashboard

from sintra.core.errors import UserError
from sintra.results.dashboard import serve
from sintra.results.dashboard.access import AccessGuard, cookie, is_loopback, own_host, send_cookie

HOSTS = (  # malformed, or another's
    "[",
    "[::1",
    "]:80",
    "[::1]x",
    "127.0.0.1:99999999",
    "127.0.0.1:x",
    "127.0.0.1/",
    "127.0.0.1 evil.example",
    "127.0.0.1@evil.example",
    "127.0.0.1\\",
    "\xe9",
    "[v1.x]",
    "evil.example",
    "127.0.0.1.evil.example",
)
ORIGINS = ("http://[", "http://]", "null", "", "http://\xff", "http:///", "http://evil.example")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project without any study or cache."""
    own = Project(tmp_path_factory.mktemp("access") / "project")
    own.root.mkdir()
    lay_down(own.root)
    return own


@pytest.fixture(scope="module")
def dashboard(project):
    made = Dashboard(project)
    yield made
    made.stop()


def status(dashboard, path="/", **headers):
    """The status of a request as it is sent, without what a client would mend or follow."""
    host = urllib.parse.urlsplit(dashboard.url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    given = {"Host": host, **headers}
    connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def signed_in(dashboard):
    """The cookie that a browser has once it has followed the printed address."""
    port = urllib.parse.urlsplit(dashboard.url).port
    return {"Cookie": f"sintra-{port}={dashboard.token}"}


def test_nobody_gets_in_without_the_token(dashboard):
    """Another user of this machine reaches the port, and nothing behind it."""
    polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    for path in ("/", "/new", "/compare", "/report/x", "/study/x", "/?token=wrong", polling):
        assert status(dashboard, path) == 403, path
        assert status(dashboard, path, Cookie="sintra=wrong; sintra-1=x") == 403, path
    assert status(dashboard, "/", **signed_in(dashboard)) == 200
    assert status(dashboard, f"/?token={dashboard.token}") == 303


def test_strangers_are_turned_away(dashboard):
    own = signed_in(dashboard)
    for host in HOSTS:
        assert status(dashboard, Host=host, **own) == 403, host
        assert status(dashboard, f"/?token={dashboard.token}", Host=host) == 403, host
    for origin in ORIGINS:
        assert status(dashboard, Origin=origin, **own) == 403, origin
    assert status(dashboard, Origin=dashboard.url, **own) == 200
    for path in ("/report/..%2f..%2fcache", "/report/%2e%2e", "/report/latest"):
        assert status(dashboard, path, **own) == 404, path


def test_beyond_this_machine_the_same_token_is_asked_for(project):
    made = Dashboard(project, "--host", "0.0.0.0", SINTRA_DASHBOARD_TOKEN="a-word-of-ours")
    try:
        plain = made.url.replace("0.0.0.0", "127.0.0.1")
        assert made.token == "a-word-of-ours"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(plain, timeout=30)
        jar = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(jar)
        assert opener.open(f"{plain}/?token=a-word-of-ours", timeout=30).status == 200
        assert opener.open(f"{plain}/new", timeout=30).url == f"{plain}/new", (
            "the cookie is enough from now on"
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(
                urllib.request.Request(f"{plain}/", headers={"Origin": "http://evil.example"}),
                timeout=30,
            )
    finally:
        made.stop()


def test_a_token_is_drawn_or_checked(monkeypatch):
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)
    assert serve.choose_token() != serve.choose_token()
    for word in (
        "short",
        "two words in it",
        "with;semicolon",
        "caf\xe9-caf\xe9",
        "x" * 201,
        "a\nb" * 9,
    ):
        monkeypatch.setenv(serve.TOKEN_VARIABLE, word)
        with pytest.raises(UserError, match=f"^{serve.TOKEN_VARIABLE} must be 8 to 200 letters"):
            serve.choose_token()


def ran(coroutine):
    """The value of a coroutine that waits for nothing; Playwright's loop runs in this thread, so
    that asyncio.run can't.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


async def asked(kind, headers, query=b"", loopback=False):
    """What a request comes to: "let in", or the messages that answer it."""
    heard = []

    async def app(scope, receive, send):
        heard.append("let in")

    async def send(message):
        heard.append(message.get("status") or message["type"])

    scope = {"type": kind, "path": "/ws", "query_string": query, "headers": headers}
    await AccessGuard(app, "a-long-word", loopback)(scope, None, send)
    return heard[:1]


def test_websockets_are_guarded_too():
    host, good = (b"host", b"example.org:1"), (b"cookie", b"x=y; sintra-1=a-long-word")
    closed, let_in = ["websocket.close"], ["let in"]
    assert ran(asked("websocket", [host])) == closed
    assert ran(asked("websocket", [host, (b"cookie", b"sintra-1=wrong")])) == closed
    assert ran(asked("websocket", [host, good])) == let_in
    assert ran(asked("websocket", [host], b"token=a-long-word")) == let_in
    assert ran(asked("websocket", [host, good], loopback=True)) == closed
    assert ran(asked("websocket", [host, good, (b"origin", b"http://evil.example")])) == closed
    assert ran(asked("websocket", [good])) == closed, "no Host"
    assert ran(asked("websocket", [host, host, good])) == closed, "two of them"


def test_headers_are_taken_whole_or_not_at_all():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "evil.example", "1" * 5000)))
    for host in ("localhost:8080", "127.0.0.1", "[::1]:1", "LOCALHOST"):
        assert own_host([("host", host), ("origin", f"http://{host}")], True), host
    for host in HOSTS:
        assert own_host([("host", host)], True) is None, host
    for odd in (";;=;", "sintra-1", "=a", "sintra-1==", 'sintra-1="a', "expires=1; \x00=\xff"):
        assert cookie([("cookie", odd)], "sintra-1") in ("", "=", '"a')


def test_a_redirect_stays_here():
    """A path with a second slash, a backslash or a line break names no other host or header."""
    for path in ("//evil.example", "/\\evil.example", "/a\r\nSet-Cookie: x=y", "/\ud800"):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        ran(send_cookie(send, path, "sintra-1", "a-long-word"))
        location = dict(sent[0]["headers"])[b"location"].decode()
        assert location[0] == "/"
        assert location[1] not in "/\\"
        assert location.isascii()
        assert location.isprintable()
