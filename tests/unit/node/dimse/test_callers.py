"""Peers with several hosts, ranges and a wildcard, and those that could never match."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chexnode.dimse.callers import Callers
from chexnode.settings.peer import PeerSettings


@pytest.mark.parametrize(
    ("peer", "title", "address", "allowed"),
    [
        ({"ae_title": "CT*", "host": "10.1.2.3"}, "CT2", "10.1.2.3", True),
        ({"ae_title": "CT*", "host": "10.1.2.3"}, "MR2", "10.1.2.3", False),
        ({"ae_title": "*", "host": "10.1.2.3"}, "", "10.1.2.3", True),
        ({"ae_title": "*", "host": "10.1.2.3"}, "ANY", "10.1.2.4", False),
        ({"ae_title": "A", "host": ["10.1.2.3", "10.9.0.0/16"]}, "A", "10.9.1.1", True),
        ({"ae_title": "A", "host": ["10.1.2.3", "10.9.0.0/16"]}, "A", "10.8.1.1", False),
        ({"ae_title": "A", "host": "10.1.2.3-10.1.2.9"}, "A", "10.1.2.9", True),
        ({"ae_title": "A", "host": "10.1.2.3-10.1.2.9"}, "A", "10.1.2.10", False),
    ],
)
def test_who_is_a_peer(peer: dict[str, Any], title: str, address: str, allowed: bool) -> None:
    assert Callers([PeerSettings(**peer)]).allows(title, address) == allowed


@pytest.mark.parametrize("host", ["", [], "10.1.2", "300.1.1.1", "10.1.2.9-10.1.2.3", "10.1.2.3-::1", "10.1.2.3/33"])
def test_what_can_never_match_is_refused(host: object) -> None:
    with pytest.raises(ValidationError):
        PeerSettings.model_validate({"ae_title": "A", "host": host})


@pytest.mark.parametrize("peer", [{"ae_title": "A*", "host": "pacs"}, {"ae_title": "A", "host": "10.0.0.0/8"}])
def test_who_is_called_back_has_a_name_and_a_place(peer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PeerSettings.model_validate(peer | {"port": 104})
