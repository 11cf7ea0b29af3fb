"""Tables ``[[webhook]]``: programs that are told what happens to images, as it happens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from chexnode.settings.base import Section

Kind = Literal["analysed", "finding", "done", "not-analysed", "refused", "failed", "dead"]


class WebhookSettings(Section):
    """A program that gets a post for what happens. Identity of patients is never in it; UIDs are."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$", description="What logs call it.")
    url: str = Field(description="http:// or https:// URL that is posted to.")
    secret: SecretStr | None = Field(
        None, description="Key of the HMAC-SHA256 in X-ChexNode-Signature, which proves that the post is ours."
    )
    events: tuple[Kind, ...] = Field(
        ("finding", "done", "not-analysed", "refused", "failed", "dead"),
        min_length=1,
        description="What it gets: `analysed`, `finding` (analysed, and abnormal), `done` (the last delivery ended), "
        "`not-analysed` (by the gate), `refused`, `failed`, `dead` (a delivery was given up).",
    )

    @model_validator(mode="after")
    def _reachable(self) -> WebhookSettings:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("webhook.url is a URL that begins with http:// or https://")
        return self
