"""How alarms reach people: e-mail (RFC 5321), a signed webhook, and whatever Apprise carries."""

from __future__ import annotations

import hashlib
import hmac
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from importlib.util import find_spec

import httpx
from pydantic import SecretStr
from pydantic_core import to_json

from chexnode.ledger.alarms import AlarmView
from chexnode.settings.alarms import AlarmSettings
from chexnode.vocabulary.errors import BadEnvironment, Transient
from chexnode.vocabulary.plain import plain

SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Notice:
    """One message."""

    node: str
    """Our AE title."""
    event: str
    """``alarm``, ``recovery`` or ``test``."""
    alarm: AlarmView
    url: str
    """Of the console."""
    at: datetime

    @property
    def title(self) -> str:
        """One line."""
        kind = {"alarm": self.alarm.severity.upper(), "recovery": "OK", "test": "TEST"}[self.event]
        about = f" ({self.alarm.subject})" if self.alarm.subject else ""
        return plain(f"[{self.node}] {kind}: {self.alarm.rule}{about}")

    @property
    def text(self) -> str:
        """A few lines."""
        said = "This is over: " if self.event == "recovery" else ""
        return f"{said}{plain(self.alarm.detail)}\n\nSince {self.alarm.since:%Y-%m-%d %H:%M:%S} UTC.\n{self.url}\n"


Channel = Callable[[Notice], None]
"""Sends one notice. Raises Transient where that did not work."""


def channels(settings: AlarmSettings) -> dict[str, Channel]:
    """Name -> channel, of those that the settings name. Raises BadEnvironment where Apprise is not installed."""
    found: dict[str, Channel] = {}
    if settings.email_to:
        found["e-mail"] = lambda notice: mail(settings, notice)
    if settings.webhook:
        found["webhook"] = lambda notice: post(settings, notice)
    if settings.apprise:
        if find_spec("apprise") is None:
            raise BadEnvironment("alarms.apprise needs Apprise: pip install 'chexnode[alarms]'")
        found["apprise"] = lambda notice: notify(settings, notice)
    return found


def mail(settings: AlarmSettings, notice: Notice) -> None:
    """Send an e-mail."""
    message = EmailMessage()
    message["Subject"] = notice.title
    message["From"], message["To"] = settings.email_from, ", ".join(settings.email_to)
    message["Date"], message["Message-ID"] = format_datetime(notice.at), make_msgid(domain="chexnode.invalid")
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is to answer
    message.set_content(notice.text)
    context = ssl.create_default_context()
    try:
        if settings.smtp_security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                settings.smtp_host, settings.smtp_port, timeout=SECONDS, context=context
            )
        else:
            server = smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=SECONDS)
        with server:
            if settings.smtp_security == "starttls":
                server.starttls(context=context)
            if settings.smtp_user and settings.smtp_password is not None:
                server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise Transient(f"mail server {settings.smtp_host}:{settings.smtp_port}: {error}") from error


def post(settings: AlarmSettings, notice: Notice) -> None:
    """Post JSON, signed where there is a secret: ``sha256=`` and the hexadecimal HMAC-SHA256 of the body."""
    facts = {"event": notice.event, "node": notice.node, "at": notice.at, "url": notice.url}
    post_json(settings.webhook, settings.webhook_secret, facts | {"alarm": asdict(notice.alarm)})


def post_json(url: str, secret: SecretStr | None, value: object) -> None:
    """Post ``value``, signed. Raises Transient unless the answer is a 2xx."""
    body = to_json(value)
    headers = {"Content-Type": "application/json", "User-Agent": "ChexNode"}
    if secret is not None:
        key = secret.get_secret_value().encode()
        headers["X-ChexNode-Signature"] = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    try:
        httpx.post(url, content=body, headers=headers, timeout=SECONDS).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise Transient(f"webhook: status {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Transient(f"webhook: {type(error).__name__}") from error


def notify(settings: AlarmSettings, notice: Notice) -> None:
    """Tell by Apprise."""
    import apprise

    service = apprise.Apprise()
    for url in settings.apprise:
        service.add(url.get_secret_value())
    if not service.notify(body=notice.text, title=notice.title):
        raise Transient("apprise: not every service took it")


def trial(node: str, url: str) -> Notice:
    """A notice that says that alarms arrive."""
    now = datetime.now(UTC)
    alarm = AlarmView("test", "", "warning", "This is a test: alarms of this node arrive here.", now, now)
    return Notice(node, "test", alarm, url, now)
