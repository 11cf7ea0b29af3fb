"""Section ``broker``: what carries the bell from process to process."""

from __future__ import annotations

from pydantic import Field

from chexnode.settings.base import Section


class BrokerSettings(Section):
    """The bell."""

    url: str = Field("embedded", description="embedded (files under data_dir), redis://... or amqp://...")
