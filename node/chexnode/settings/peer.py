"""Tables ``[[peer]]``: who may call."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from chexnode.settings.base import AETitle, Port, Section, network, read_range


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Hosts = Annotated[tuple[Annotated[str, AfterValidator(network)], ...], BeforeValidator(_listed), Field(min_length=1)]


class PeerSettings(Section):
    """Who may call."""

    ae_title: AETitle = Field(description="Calling AE title; a `*` at its end: any rest; alone: any title.")
    host: Hosts = Field(description="Address, CIDR block, range (10.1.2.3-10.1.2.9) or host it calls from, or a list.")
    port: Port | None = Field(None, description="Where it listens, for answers to its storage commitment requests.")
    tls: bool = Field(False, description="Speak TLS to it there.")

    @model_validator(mode="after")
    def _can_be_called(self) -> PeerSettings:
        if self.port is not None and (self.ae_title.endswith("*") or "/" in self.host[0] or read_range(self.host[0])):
            raise ValueError("a peer with a port needs its whole AE title, and the host to call first in its list")
        return self
