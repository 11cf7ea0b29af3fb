"""Section ``oidc``: signing in to the console with the hospital's identity provider."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from chexnode.settings.base import Section, is_loopback


class OidcSettings(Section):
    """Signing in to the console with an identity provider (OpenID Connect Core 1.0, authorization code flow)."""

    issuer: str = Field(
        "", description="URL of the provider, as its tokens name it; it begins with https://. Empty: local users only."
    )
    client_id: str = Field("", description="What the provider calls this node.")
    client_secret: SecretStr | None = Field(
        None, description="Secret that the provider gave to this node; none: a public client, which PKCE protects."
    )
    name: str = Field("", description="What the button calls the provider; empty: the host of the issuer.")
    scopes: tuple[str, ...] = Field(("profile",), description="Scopes that are asked for, besides openid.")
    name_claim: str = Field(
        "preferred_username", description="Claim with the name that people have here; a dot leads into an object."
    )
    role_claim: str = Field(
        "groups", description="Claim with what decides the role, a text or a list, such as `realm_access.roles`."
    )
    viewers: tuple[str, ...] = Field((), description="Values of role_claim that make somebody a viewer.")
    operators: tuple[str, ...] = Field((), description="Values of role_claim that make somebody an operator.")
    admins: tuple[str, ...] = Field((), description="Values of role_claim that make somebody an administrator.")
    authorities: Path | None = Field(
        None, description="PEM file of the authorities that sign the provider's certificate; none: the system's."
    )

    @model_validator(mode="after")
    def _complete(self) -> OidcSettings:
        if not self.issuer:
            return self
        if not is_safe(self.issuer):
            raise ValueError("oidc.issuer is a URL that begins with https://")
        if not self.client_id:
            raise ValueError("oidc.client_id is needed: what the provider calls this node")
        if not (self.viewers or self.operators or self.admins):
            raise ValueError("nobody could sign in: oidc.viewers, oidc.operators or oidc.admins is needed")
        return self

    @property
    def title(self) -> str:
        """What the button calls the provider."""
        return self.name or urlsplit(self.issuer).hostname or ""


def is_safe(url: str) -> bool:
    """Whether nobody on the way can read or change what goes to ``url``: TLS, or this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
