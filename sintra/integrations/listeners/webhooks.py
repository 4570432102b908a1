"""Messages when a study ends: Slack, Discord, signed JSON to any address, and through apprise
whatever else it knows.

Addresses of webhooks are secrets: they come from the environment and nowhere else. Bodies follow
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
https://docs.discord.com/developers/resources/webhook and, for signed JSON, Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sintra.core.errors import UserError
from sintra.core.events import Event, Listener, Setting

COLOURS = {"met": 0x2E7D32, "unmet": 0xC77700, "failed": 0xB3261E}  # RGB
PASSING = frozenset([408, 429, 500, 502, 503, 504])
LONGEST_WAIT_S = 30.0
Post = Callable[[Event], None]


@dataclass(frozen=True)
class Message:
    """An event for people: a title, and facts as (name, value)."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """All of it as plain text."""
        return "\n".join([self.title, *(f"{name}: {value}" for name, value in self.facts)])


def message(event: Event) -> Message:
    """What a person wants to know at the end of a study."""
    data, winner = event.data, event.data.get("winner") or {}
    if event.kind == "failed":
        return Message(f"{event.study}: failed", (("reason", str(data.get("reason", ""))),))
    if event.kind not in ("met", "unmet"):
        plain = tuple((k, str(v)) for k, v in data.items() if isinstance(v, str | int | float))
        return Message(f"{event.study}: {event.kind}", plain)
    numbers = {m["metric"]: m["value"] for m in winner.get("measurements", [])}
    facts: list[tuple[str, str]] = [("model", data["model"]), ("hardware", data["hardware"])]
    if winner:
        facts += [
            ("winner", winner["name"]),
            ("size", f"{numbers.get('size_bytes', 0) / 1e6:.2f} MB"),
        ]
    if "kld_mean" in numbers:
        facts.append(("KLD", f"{numbers['kld_mean']:.5f} nats"))
    if data["reason"] and not winner:
        facts.append(("reason", data["reason"]))
    return Message(f"{event.study}: {data['status']}", tuple(facts))


def slack(event: Event) -> dict[str, Any]:
    """A Slack message: plain text for notifications, blocks for the channel (3000 characters a
    text, 10 fields).
    """
    told = message(event)

    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    fields = [
        {"type": "mrkdwn", "text": f"*{name}*\n{escaped(value)[:1900]}"}
        for name, value in told.facts[:10]
    ]
    section: dict[str, Any] = {
        "type": "section",
        "text": {"type": "mrkdwn", "text": f"*{escaped(told.title)[:2900]}*"},
    }
    return {
        "text": escaped(told.text)[:3000],
        "blocks": [section | ({"fields": fields} if fields else {})],
    }


def discord(event: Event) -> dict[str, Any]:
    """A Discord message with one embed (title 256 characters, 25 fields of 1024); nobody is
    mentioned.
    """
    told = message(event)
    fields = [
        {"name": name[:256], "value": value[:1024] or "-", "inline": len(value) < 40}
        for name, value in told.facts[:25]
    ]
    embed = {
        "title": told.title[:256],
        "color": COLOURS.get(event.kind, 0x555555),
        "fields": fields,
    }
    return {"content": told.title[:2000], "embeds": [embed], "allowed_mentions": {"parse": []}}


def signed(secret: str, number: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: HMAC-SHA256 over id, time and body. A secret is whsec_ and
    base64, or any text.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    mark = hmac.new(key, f"{number}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": number,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(mark).decode()}",
    }


def generic(event: Event) -> bytes:
    """An event as JSON: {"type": "study.met", "timestamp": ISO 8601, "data": {"study": ..., ...}}."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at))
    return json.dumps(
        {
            "type": f"study.{event.kind}",
            "timestamp": at,
            "data": {"study": event.study, **event.data},
        }
    ).encode()


def send(url: str, body: bytes, headers: dict[str, str], options: dict[str, Any]) -> None:
    """POST JSON, again after a passing fault with growing pauses (or Retry-After). Raises
    RuntimeError with the last answer.
    """
    import httpx

    trouble = ""
    for attempt in range(options["retries"] + 1):
        pause = min(0.5 * 2**attempt, LONGEST_WAIT_S)
        try:
            answer = httpx.post(
                url,
                content=body,
                headers={"Content-Type": "application/json", **headers},
                timeout=options["timeout_s"],
                follow_redirects=False,
            )
            if answer.status_code < 300:
                return
            trouble = f"the endpoint answers {answer.status_code}"
            if answer.status_code not in PASSING:
                break
            asked = answer.headers.get("Retry-After", "")
            pause = (
                min(float(asked), LONGEST_WAIT_S) if asked.replace(".", "", 1).isdigit() else pause
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            trouble = f"the endpoint can't be reached: {type(error).__name__}"
        if attempt < options["retries"]:
            time.sleep(pause)
    raise RuntimeError(trouble)


class Ends:
    """Hands over the events that notify.on names."""

    def __init__(self, setting: Setting, post: Post) -> None:
        self.wanted, self.post = setting.options["notify"]["on"], post

    def hear(self, event: Event) -> None:
        """Send it, or not."""
        if event.kind in self.wanted:
            self.post(event)

    def close(self) -> None:
        """Nothing is open."""


def needs(variable: str, listener: str) -> Callable[[dict[str, Any]], None]:
    """A check that a variable holds an address."""

    def check(options: dict[str, Any]) -> None:
        if not os.environ.get(variable, "").startswith(("http://", "https://")):
            raise UserError(
                f"listeners has {listener!r}: set {variable} to the webhook's address (it is a "
                "secret: no option)"
            )

    return check


def poster(variable: str, body: Callable[[Event], dict[str, Any]]) -> Callable[[Setting], Ends]:
    """A listener that posts a body to the address in a variable."""

    def open(setting: Setting) -> Ends:
        url, options = os.environ[variable], setting.options["notify"]
        return Ends(setting, lambda event: send(url, json.dumps(body(event)).encode(), {}, options))

    return open


def open_generic(setting: Setting) -> Ends:
    """Signed JSON."""
    url, secret, options = (
        os.environ["SINTRA_WEBHOOK_URL"],
        os.environ["SINTRA_WEBHOOK_SECRET"],
        setting.options["notify"],
    )

    def post(event: Event) -> None:
        body = generic(event)
        number = "msg_" + hashlib.sha256(body).hexdigest()[:24]  # the same event has the same id
        send(url, body, signed(secret, number, int(time.time()), body), options)

    return Ends(setting, post)


def check_generic(options: dict[str, Any]) -> None:
    """Address and secret."""
    needs("SINTRA_WEBHOOK_URL", "webhook")(options)
    secret = os.environ.get("SINTRA_WEBHOOK_SECRET", "")
    if not secret:
        raise UserError(
            "listeners has 'webhook': set SINTRA_WEBHOOK_SECRET, which its messages are signed with"
        )
    try:
        signed(secret, "", 0, b"")
    except binascii.Error:
        raise UserError(
            "SINTRA_WEBHOOK_SECRET starts with whsec_, so the rest must be base64"
        ) from None


def open_apprise(setting: Setting) -> Ends:
    """Everything that apprise knows (https://github.com/caronc/apprise/wiki), under our own name."""
    from apprise import Apprise, AppriseAsset, NotifyType

    kinds = {"met": NotifyType.SUCCESS, "unmet": NotifyType.WARNING, "failed": NotifyType.FAILURE}
    hands = Apprise(
        asset=AppriseAsset(
            app_id="Sintra", app_desc="Sintra", app_url="", image_url_mask="", image_url_logo=""
        )
    )
    if not hands.add(os.environ["SINTRA_APPRISE_URLS"].split()):
        raise RuntimeError("SINTRA_APPRISE_URLS has an address that apprise doesn't know")

    def post(event: Event) -> None:
        told, retries = message(event), setting.options["notify"]["retries"]
        for attempt in range(retries + 1):
            if hands.notify(
                title=told.title, body=told.text, notify_type=kinds.get(event.kind, NotifyType.INFO)
            ):
                return
            if attempt < retries:
                time.sleep(min(0.5 * 2**attempt, LONGEST_WAIT_S))
        raise RuntimeError("apprise could not deliver to all of SINTRA_APPRISE_URLS")

    return Ends(setting, post)


def check_apprise(options: dict[str, Any]) -> None:
    """Package and addresses."""
    if importlib.util.find_spec("apprise") is None:
        raise UserError(
            "listeners has 'apprise', which isn't installed: pip install 'sintra[apprise]'"
        )
    if not os.environ.get("SINTRA_APPRISE_URLS"):
        raise UserError(
            "listeners has 'apprise': set SINTRA_APPRISE_URLS to its addresses, spaces between them"
        )


SLACK = Listener("slack", poster("SINTRA_SLACK_URL", slack), needs("SINTRA_SLACK_URL", "slack"))
DISCORD = Listener(
    "discord", poster("SINTRA_DISCORD_URL", discord), needs("SINTRA_DISCORD_URL", "discord")
)
WEBHOOK = Listener("webhook", open_generic, check_generic)
APPRISE = Listener("apprise", open_apprise, check_apprise)
