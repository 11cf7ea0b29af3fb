"""Which result goes where."""

from __future__ import annotations

from pathlib import Path

import pytest

from chexnode.deliver.routing import DEFAULT_VARIANTS, REJECTION_NOTE, Route, contexts, routes, variants
from chexnode.settings.destination import DestinationSettings
from chexnode.vocabulary.variants import ResultKind, Variant

SEG, SC, SR, GSPS = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS


def destination(name: str = "pacs", **more: object) -> DestinationSettings:
    return DestinationSettings.model_validate({"name": name, "kind": "folder", "path": Path("/out")} | more)


def test_each_destination_gets_its_own_variants() -> None:
    chosen = routes([destination(), destination("b", seg_profile="full", sc_encoding="jpeg")], "ORTHANC", True)
    assert chosen == (
        Route("pacs", Variant.parse(SEG, "planar")),
        Route("pacs", Variant.parse(SC, "rgb")),
        Route("pacs", Variant.parse(SR, "comprehensive3d-box-planar")),
        Route("b", Variant.parse(SEG, "full")),
        Route("b", Variant.parse(SC, "jpeg")),
        Route("b", Variant.parse(SR, "comprehensive3d-box-full")),
    )


@pytest.mark.parametrize(
    ("settings", "forms"),
    [
        ({"results": ["sr"]}, [Variant.parse(SR, "comprehensive3d-box-noseg")]),
        (
            {"results": ["sr", "seg"], "seg_profile": "none", "sr_class": "comprehensive", "sr_outline": "contour"},
            [Variant.parse(SR, "comprehensive-contour-none"), Variant.parse(SEG, "none")],
        ),
        ({"results": ["gsps", "gsps"]}, [Variant.parse(GSPS, "outline")]),
        ({"results": ["sc"], "heat_map": True}, [Variant.parse(SC, "rgb"), Variant.parse(SC, "heat")]),
        (
            {"results": ["gsps"], "heat_map": True, "sc_encoding": "jpeg"},
            [Variant.parse(GSPS, "outline"), Variant.parse(SC, "heat-jpeg")],
        ),
        (
            {"results": ["seg", "sc"], "label": "RESEARCH"},
            [Variant.parse(SEG, "planar@RESEARCH"), Variant.parse(SC, "rgb@RESEARCH")],
        ),
    ],
)
def test_the_form_of_each_object_follows_the_settings(settings: dict[str, object], forms: list[Variant]) -> None:
    assert [route.variant for route in routes([destination(**settings)], "ORTHANC", True)] == forms


def test_two_labels_make_two_objects() -> None:
    chosen = routes([destination(results=["sc"]), destination("b", results=["sc"], label="RESEARCH")], "ORTHANC", True)
    assert variants(chosen) == (Variant.parse(SC, "rgb"), Variant.parse(SC, "rgb@RESEARCH"))
    assert [str(variant) for variant in variants(chosen)] == ["rgb", "rgb@RESEARCH"]


def test_a_variant_that_two_want_is_encoded_once() -> None:
    chosen = routes([destination(), destination("b", results=["sc"])], "ORTHANC", True)
    assert variants(chosen) == (
        Variant.parse(SEG, "planar"),
        Variant.parse(SC, "rgb"),
        Variant.parse(SR, "comprehensive3d-box-planar"),
    )


@pytest.mark.parametrize(("abnormal", "sent"), [(True, True), (False, False), (None, True)])
def test_abnormal_only_takes_what_was_not_evaluated_too(abnormal: bool | None, sent: bool) -> None:
    assert bool(routes([destination(send="abnormal")], "ORTHANC", abnormal)) is sent


@pytest.mark.parametrize(("caller", "sent"), [("CT1", True), ("CR7", False)])
def test_only_images_of_its_peers(caller: str, sent: bool) -> None:
    assert bool(routes([destination(peers=["CT1"])], caller, True)) is sent


def test_without_a_destination_results_are_made_and_kept() -> None:
    assert variants(routes([], "ORTHANC", True)) == DEFAULT_VARIANTS


def test_a_destination_that_is_told_by_notes_is_offered_them() -> None:
    assert REJECTION_NOTE in contexts(destination())
    assert REJECTION_NOTE not in contexts(destination(withdraw="delete"))
    assert REJECTION_NOTE not in contexts(destination(withdraw="none"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"withdraw": "dcm4chee-reject"},
        {"withdraw_url": "http://pacs:8042"},
        {"withdraw": "delete", "kind": "dicom", "path": None, "ae_title": "A", "host": "a", "port": 104},
        {"withdraw_by_orthanc": True},
    ],
)
def test_a_way_of_withdrawing_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"withdraw|dcm4chee"):
        destination(**wrong)
