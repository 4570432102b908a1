"""Messages when a study ends: Slack, Discord, signed JSON to any address, and apprise.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from sintra.core.errors import UserError
from sintra.core.events import Event, Listener, Setting

if TYPE_CHECKING:
    import httpx

COLORS = {"met": 0x2E7D32, "unmet": 0xC77700, "failed": 0xB3261E}  # RGB by the kind of event
OTHER_COLOR = 0x555555  # RGB
PASSING_CODES = frozenset([408, 429, 500, 502, 503, 504])  # HTTP statuses worth another try
LONGEST_WAIT_S = 30.0  # seconds between two tries
PostEvent = Callable[[Event], None]
Body = dict[str, object]  # a request's JSON


class NotifyOptions(TypedDict):
    """The options notify.* of a study."""

    on: list[str]  # kinds of events that are sent
    timeout_s: float  # of a request, seconds
    retries: int  # tries after the first


@dataclass(frozen=True)
class EventMessage:
    """An event for people."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()  # (name, value)

    @property
    def text(self) -> str:
        """Return all of it as plain text."""
        return "\n".join([self.title, *(f"{name}: {value}" for name, value in self.facts)])


def event_message(event: Event) -> EventMessage:
    """Return what a person wants to read of an event."""
    if event.kind in ("met", "unmet"):
        return end_message(event)
    if event.kind == "failed":
        reason = str(event.data.get("reason", ""))
        return EventMessage(f"{event.study}: failed", (("reason", reason),))
    facts = tuple((k, str(v)) for k, v in event.data.items() if isinstance(v, str | int | float))
    return EventMessage(f"{event.study}: {event.kind}", facts)


def end_message(event: Event) -> EventMessage:
    """Return what a person wants to read at the end of a study, met or unmet."""
    data, winner = event.data, event.data.get("winner") or {}
    numbers = {m["metric"]: m["value"] for m in winner.get("measurements", [])}
    facts: list[tuple[str, str]] = [("model", data["model"]), ("hardware", data["hardware"])]
    if winner:
        size = f"{numbers.get('size_bytes', 0) / 1e6:.2f} MB"
        facts += [("winner", winner["name"]), ("size", size)]
    if "kld_mean" in numbers:
        facts.append(("KLD", f"{numbers['kld_mean']:.5f} nats"))
    if data["reason"] and not winner:
        facts.append(("reason", data["reason"]))
    return EventMessage(f"{event.study}: {data['status']}", tuple(facts))


def escape_slack(text: str) -> str:
    """Escape the characters that Slack's mrkdwn reads as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack_body(event: Event) -> Body:
    """Return a Slack message: plain text for notifications, blocks for the channel.

    Slack takes 3000 characters a text and 10 fields.
    """
    message = event_message(event)
    fields = [
        {"type": "mrkdwn", "text": f"*{name}*\n{escape_slack(value)[:1900]}"}
        for name, value in message.facts[:10]
    ]
    title = f"*{escape_slack(message.title)[:2900]}*"
    section: Body = {"type": "section", "text": {"type": "mrkdwn", "text": title}}
    if fields:
        section["fields"] = fields
    return {"text": escape_slack(message.text)[:3000], "blocks": [section]}


def discord_body(event: Event) -> Body:
    """Return a Discord message with one embed, which mentions nobody.

    Discord takes a title of 256 characters and 25 fields of 1024.
    """
    message = event_message(event)
    fields = [
        {"name": name[:256], "value": value[:1024] or "-", "inline": len(value) < 40}
        for name, value in message.facts[:25]
    ]
    embed = {
        "title": message.title[:256],
        "color": COLORS.get(event.kind, OTHER_COLOR),
        "fields": fields,
    }
    return {"content": message.title[:2000], "embeds": [embed], "allowed_mentions": {"parse": []}}


def signature_headers(secret: str, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks: HMAC-SHA256 over id, time and body.

    secret: whsec_ and base64, or any text; at: seconds since the epoch. Raises binascii.Error.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signature = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def event_json(event: Event) -> bytes:
    """Return an event as JSON.

    That is {"type": "study.met", "timestamp": ISO 8601, "data": {"study": ..., ...}}.
    """
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at))
    data = {"study": event.study, **event.data}
    return json.dumps({"type": f"study.{event.kind}", "timestamp": at, "data": data}).encode()


def post_json(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, retries: int
) -> None:
    """POST JSON, and again after a passing fault, with growing pauses or those of Retry-After.

    Raises RuntimeError with the last answer.
    """
    import httpx  # only sending needs it

    trouble = ""
    for attempt in range(retries + 1):
        pause_s = min(0.5 * 2**attempt, LONGEST_WAIT_S)
        try:
            response = httpx.post(
                url,
                content=body,
                headers={"Content-Type": "application/json", **headers},
                timeout=timeout_s,
                follow_redirects=False,
            )
            if response.status_code < 300:
                return
            trouble = f"the endpoint answers {response.status_code}"
            if response.status_code not in PASSING_CODES:
                break
            pause_s = retry_after_s(response, pause_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            trouble = f"the endpoint can't be reached: {type(error).__name__}"
        if attempt < retries:
            time.sleep(pause_s)
    raise RuntimeError(trouble)


def retry_after_s(response: httpx.Response, default_s: float) -> float:
    """Return the pause that a response asks for, seconds; a default where it names no number."""
    header = response.headers.get("Retry-After", "")
    if header.replace(".", "", 1).isdigit():
        return min(float(header), LONGEST_WAIT_S)
    return default_s


class NotifyListener:
    """A listener that hands the events of notify.on to a function."""

    def __init__(self, kinds: list[str], post: PostEvent) -> None:
        self.kinds = kinds  # of events
        self.post = post

    def hear(self, event: Event) -> None:
        """Send an event whose kind is among those of notify.on."""
        if event.kind in self.kinds:
            self.post(event)

    def close(self) -> None:
        """Do nothing: nothing is open."""


def address_check(variable: str, listener: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a check that a variable of the environment holds an address."""

    def check_address(options: Mapping[str, Any]) -> None:
        if not os.environ.get(variable, "").startswith(("http://", "https://")):
            raise UserError(
                f"listeners has {listener!r}: set {variable} to the webhook's address (it is a "
                "secret: no option)"
            )

    return check_address


def body_opener(
    variable: str, event_body: Callable[[Event], Body]
) -> Callable[[Setting], NotifyListener]:
    """Return what opens a listener that posts a body to the address in a variable."""

    def open_listener(setting: Setting) -> NotifyListener:
        url, notify = os.environ[variable], notify_options(setting)

        def post_body(event: Event) -> None:
            body = json.dumps(event_body(event)).encode()
            post_json(url, body, {}, notify["timeout_s"], notify["retries"])

        return NotifyListener(notify["on"], post_body)

    return open_listener


def notify_options(setting: Setting) -> NotifyOptions:
    """Return the options notify.* of a study."""
    options: NotifyOptions = setting.options["notify"]
    return options


def open_webhook(setting: Setting) -> NotifyListener:
    """Open the listener that posts signed JSON."""
    url, secret = os.environ["SINTRA_WEBHOOK_URL"], os.environ["SINTRA_WEBHOOK_SECRET"]
    notify = notify_options(setting)

    def post_signed(event: Event) -> None:
        body = event_json(event)
        message_id = "msg_" + hashlib.sha256(body).hexdigest()[:24]  # the same for the same event
        headers = signature_headers(secret, message_id, int(time.time()), body)
        post_json(url, body, headers, notify["timeout_s"], notify["retries"])

    return NotifyListener(notify["on"], post_signed)


def check_webhook(options: Mapping[str, Any]) -> None:
    """Check the address and the secret of signed JSON. Raises UserError."""
    address_check("SINTRA_WEBHOOK_URL", "webhook")(options)
    secret = os.environ.get("SINTRA_WEBHOOK_SECRET", "")
    if not secret:
        raise UserError(
            "listeners has 'webhook': set SINTRA_WEBHOOK_SECRET, which its messages are signed with"
        )
    try:
        signature_headers(secret, "", 0, b"")
    except binascii.Error:
        raise UserError(
            "SINTRA_WEBHOOK_SECRET starts with whsec_, so the rest must be base64"
        ) from None


def open_apprise(setting: Setting) -> NotifyListener:
    """Open the listener that sends through apprise, under our own name.

    Services: https://github.com/caronc/apprise/wiki. Raises RuntimeError for an unknown address.
    """
    from apprise import Apprise, AppriseAsset, NotifyType  # an optional package

    types = {"met": NotifyType.SUCCESS, "unmet": NotifyType.WARNING, "failed": NotifyType.FAILURE}
    notify = notify_options(setting)
    asset = AppriseAsset(
        app_id="Sintra", app_desc="Sintra", app_url="", image_url_mask="", image_url_logo=""
    )
    services = Apprise(asset=asset)
    if not services.add(os.environ["SINTRA_APPRISE_URLS"].split()):
        raise RuntimeError("SINTRA_APPRISE_URLS has an address that apprise doesn't know")

    def post_message(event: Event) -> None:
        message = event_message(event)
        kind = types.get(event.kind, NotifyType.INFO)
        for attempt in range(notify["retries"] + 1):
            if services.notify(title=message.title, body=message.text, notify_type=kind):
                return
            if attempt < notify["retries"]:
                time.sleep(min(0.5 * 2**attempt, LONGEST_WAIT_S))
        raise RuntimeError("apprise could not deliver to all of SINTRA_APPRISE_URLS")

    return NotifyListener(notify["on"], post_message)


def check_apprise(options: Mapping[str, Any]) -> None:
    """Check that apprise is installed and has addresses. Raises UserError."""
    if importlib.util.find_spec("apprise") is None:
        raise UserError(
            "listeners has 'apprise', which isn't installed: pip install 'sintra[apprise]'"
        )
    if not os.environ.get("SINTRA_APPRISE_URLS"):
        raise UserError(
            "listeners has 'apprise': set SINTRA_APPRISE_URLS to its addresses, spaces between them"
        )


SLACK = Listener(
    "slack",
    body_opener("SINTRA_SLACK_URL", slack_body),
    address_check("SINTRA_SLACK_URL", "slack"),
)
DISCORD = Listener(
    "discord",
    body_opener("SINTRA_DISCORD_URL", discord_body),
    address_check("SINTRA_DISCORD_URL", "discord"),
)
WEBHOOK = Listener("webhook", open_webhook, check_webhook)
APPRISE = Listener("apprise", open_apprise, check_apprise)
