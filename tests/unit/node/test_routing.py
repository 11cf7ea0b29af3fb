"""Which result goes where."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexnode.deliver.routing import DEFAULT_VARIANTS, Route, routes, variants
from chexnode.ledger.states import ResultKind
from chexnode.settings import DestinationSettings

SEG, SC = ResultKind.SEG, ResultKind.SC


def destination(name: str = "pacs", **more: object) -> DestinationSettings:
    return DestinationSettings.model_validate({"name": name, "kind": "folder", "path": Path("/out")} | more)


def test_each_destination_gets_its_own_variants() -> None:
    chosen = routes([destination(), destination("b", seg_profile="full", sc_encoding="jpeg")], "ORTHANC", True)
    assert chosen == (
        Route("pacs", (SEG, "planar")),
        Route("pacs", (SC, "rgb")),
        Route("b", (SEG, "full")),
        Route("b", (SC, "jpeg")),
    )


def test_a_variant_that_two_want_is_encoded_once() -> None:
    chosen = routes([destination(), destination("b", results=["sc"])], "ORTHANC", True)
    assert variants(chosen) == ((SEG, "planar"), (SC, "rgb"))


@pytest.mark.parametrize(("abnormal", "sent"), [(True, True), (False, False), (None, True)])
def test_abnormal_only_takes_what_was_not_evaluated_too(abnormal: bool | None, sent: bool) -> None:
    assert bool(routes([destination(send="abnormal")], "ORTHANC", abnormal)) is sent


@pytest.mark.parametrize(("caller", "sent"), [("CT1", True), ("CR7", False)])
def test_only_images_of_its_peers(caller: str, sent: bool) -> None:
    assert bool(routes([destination(peers=["CT1"])], caller, True)) is sent


def test_without_a_destination_results_are_made_and_kept() -> None:
    assert variants(routes([], "ORTHANC", True)) == DEFAULT_VARIANTS
