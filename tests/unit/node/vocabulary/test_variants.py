"""A variant is a value, and its string in the ledger is read back as that value and no other."""

from __future__ import annotations

import pytest

from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import (
    FORMS,
    GspsForm,
    KoForm,
    NotAnalysedForm,
    ResultForm,
    ResultKind,
    ScForm,
    SegForm,
    SrForm,
    Variant,
)

SEG, SC, SR, GSPS, KO = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS, ResultKind.KO


@pytest.mark.parametrize("label", ["", "RESEARCH", "LAB@2"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_variant_is_its_string(form: ResultForm, label: str) -> None:
    variant = Variant(form, label)
    assert Variant.parse(form.kind, str(variant)) == variant


def test_every_form_has_a_string_of_its_own() -> None:
    assert len({(form.kind, str(form)) for form in FORMS}) == len(FORMS) == 3 + 4 + 16 + 2 + 1 + 4


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (SegForm("none"), "none"),
        (ScForm(), "rgb"),
        (ScForm("jpeg"), "jpeg"),
        (ScForm(is_heat_map=True), "heat"),
        (ScForm("jpeg", is_heat_map=True), "heat-jpeg"),
        (SrForm(), "comprehensive3d-box-noseg"),
        (SrForm("comprehensive", "contour", "full"), "comprehensive-contour-full"),
        (NotAnalysedForm("comprehensive"), "not-analysed-comprehensive"),
        (GspsForm(), "outline"),
        (KoForm(Supersession.ERASED), "erased"),
    ],
)
def test_the_ledger_and_the_uids_know_them_by_these_strings(form: ResultForm, text: str) -> None:
    assert str(form) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (SEG, "rgb"), (SEG, "planar "), (SEG, "@LABEL"), (SC, "planar"), (SC, "png"), (SR, ""), (SR, "3d"),
        (SR, "comprehensive3d-box"), (SR, "comprehensive3d-box-None"), (GSPS, "planar"), (KO, "outline"),
    ],
)  # fmt: skip
def test_another_string_is_no_variant(kind: ResultKind, text: str) -> None:
    with pytest.raises(ValueError, match=f"there is no {kind} of form"):
        Variant.parse(kind, text)
