"""An S3 server on loopback: moto's, over HTTP, with the atomicity that S3 promises.

moto looks whether an object is there and then puts it; between the two another thread may do the
same. S3 documents its conditional writes as atomic
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html), so conditional puts
are let in one at a time. Nothing else is changed.
"""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    """No line for each request."""

    def log_request(self, *args, **kwargs):
        """Nothing."""


class S3:
    """The server; `requests` counts what it was asked, by method; `broken` makes it answer 503 so
    many times, `readonly` 403 to whoever writes.
    """

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.one = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.broken = 0
        self.readonly = False
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.more: dict[str, str] = {}  # further variables of clients

    def __call__(self, environ, start_response):
        """The WSGI application."""
        self.requests[environ["REQUEST_METHOD"]] += 1
        if self.broken:
            self.broken -= 1
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if self.readonly and environ["REQUEST_METHOD"] != "GET":
            start_response("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        if "HTTP_IF_NONE_MATCH" in environ:
            with self.one:
                return list(self.app(environ, start_response))
        return self.app(environ, start_response)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            **self.more,
        }

    def bucket(self, name: str) -> str:
        """A new bucket's address."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=10
        ).read()
        return f"s3://{name}/team"

    def stop(self) -> None:
        """End it."""
        self.server.shutdown()
        self.thread.join()
