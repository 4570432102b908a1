"""An OpenAI-compatible server on loopback that does what a script says, one behaviour a request;
the last one repeats.

with Server(status(429, {"Retry-After": "2"}), good({"edits": []})) as server:
    server.url, len(server.asked), server.asked[0]["messages"], server.keys
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """asked: the bodies of the requests so far; keys: their Authorization headers."""

    daemon_threads = True

    def __init__(self, *script):
        self.script, self.asked, self.keys, self.paths = list(script), [], [], []
        self.over, self.turn = threading.Event(), threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hung up is part of the play."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.turn:
            server.asked.append(asked)
            server.keys.append(self.headers["Authorization"])
            server.paths.append(self.path)
            behave = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        behave(self, asked)

    def answer(self, code, body, headers=(), length=None):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def completion(text, finish="stop", usage=(100, 20)):
    """The body of a chat completion."""
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text},
    }
    counts = usage and {
        "prompt_tokens": usage[0],
        "completion_tokens": usage[1],
        "total_tokens": sum(usage),
    }
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": counts,
    }


def says(text, **more):
    """Answers with this text."""
    return lambda handler, asked: handler.answer(200, completion(text, **more))


def good(data, **more):
    """Answers with this value as JSON."""
    return says(json.dumps(data), **more)


def body(value):
    """Answers 200 with this body, whatever it is."""
    return lambda handler, asked: handler.answer(200, value)


def status(code, headers=(), message="no"):
    """Answers with an error."""
    return lambda handler, asked: handler.answer(code, {"error": {"message": message}}, headers)


def takes(kind, then, code=500):
    """As `then` where the response format is of this kind (None: where there is none), else an
    error.
    """

    def behave(handler, asked):
        given = (asked.get("response_format") or {}).get("type")
        (
            then
            if given == kind
            else status(code, message=f"response_format {given} is not supported")
        )(handler, asked)

    return behave


def hang(handler, asked):
    """Says nothing until the server ends."""
    handler.server.over.wait(30)


def drip(handler, asked):
    """A byte now and then, each before any time-out between bytes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def half(handler, asked):
    """Closes the connection in the middle of the answer."""
    raw = json.dumps(completion('{"edits": []}')).encode()
    handler.answer(200, raw[: len(raw) // 2], length=len(raw))


def echo(handler, asked):
    """An error that quotes the headers and the address that it was sent."""
    handler.answer(
        401,
        {
            "error": {
                "message": f"bad {handler.headers['Authorization']} at {handler.path}\n\x1b[31m"
            }
        },
    )
