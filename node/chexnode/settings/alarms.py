"""Who gets a message when something is wrong, and when it is."""

from __future__ import annotations

from datetime import time
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from chexnode.settings.base import Section


class AlarmSettings(Section):
    """Alarms: each is sent once, and once more when it is over. Nothing of a patient is ever in them."""

    email_to: tuple[str, ...] = Field((), description="Addresses that alarms are mailed to; empty: none.")
    email_from: str = Field("chexnode@localhost", description="Address that they come from.")
    smtp_host: str = Field("localhost", description="Mail server.")
    smtp_port: int = Field(25, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["none", "starttls", "tls"] = Field("none", description="How the mail server is spoken to.")
    smtp_user: str = Field("", description="User name at the mail server; empty: none is given.")
    smtp_password: SecretStr | None = Field(None, description="Password at the mail server.")
    webhook: str = Field("", description="http:// or https:// URL that each alarm is posted to as JSON; empty: none.")
    webhook_secret: SecretStr | None = Field(
        None, description="Key of the HMAC-SHA256 in X-ChexNode-Signature, which proves that the post is ours."
    )
    apprise: tuple[SecretStr, ...] = Field(
        (), description="URLs of any service that Apprise knows; needs the extra `alarms`."
    )
    every_seconds: float = Field(30, gt=0, description="How often the node is looked at.")
    destination_minutes: float = Field(10, ge=0, description="A destination may fail this long.")
    queue_minutes: float = Field(15, gt=0, description="The oldest image may wait this long.")
    duty_minutes: float = Field(2, ge=0, description="Receiver, workers or delivery may be gone this long.")
    certificate_days: float = Field(30, ge=0, description="Our certificate may not end sooner than in this many days.")
    clock_seconds: float = Field(5, gt=0, description="The clocks of this host and the database may differ this much.")
    station_hours: float = Field(
        3, ge=0, le=24, description="A station may be silent this long at a time when it usually sends; 0: for ever."
    )
    commitment_minutes: float = Field(
        60, gt=0, description="A destination may take this long to commit to what it has accepted."
    )
    refusals: int = Field(
        10,
        ge=0,
        description="So many images of an hour that are not analysed, and far more than usual, are too many; 0: never.",
    )
    quiet: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description="When warnings wait, by this host's clock, such as 22:00-06:00; critical alarms never do.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> AlarmSettings:
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ValueError("alarms.webhook is a URL that begins with http:// or https://")
        return self

    def is_quiet(self, at: time) -> bool:
        """Whether warnings wait at that time of the day; the end is outside."""
        if not self.quiet:
            return False
        start, end = (time.fromisoformat(part) for part in self.quiet.split("-"))
        return start <= at < end if start <= end else at >= start or at < end
