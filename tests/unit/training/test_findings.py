"""Names of findings: matched without regard to capitals, and never guessed."""

from __future__ import annotations

import pytest

from chextrain.data.findings import LOCAL, MORE_LOCAL, NO_FINDING, VINDR, UnknownFinding, normalise


def test_there_are_14_and_8_more() -> None:
    assert len(VINDR) == 14
    assert len(MORE_LOCAL) == 8
    assert len({name.casefold() for name in LOCAL}) == 22
    assert NO_FINDING not in LOCAL


@pytest.mark.parametrize(
    ("written", "name"),
    [("Aortic Enlargement", "Aortic enlargement"), (" lung opacity", "Lung Opacity"), ("ild", "ILD")],
)
def test_capitals_and_blanks_do_not_matter(written: str, name: str) -> None:
    assert normalise(written) == name


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownFinding, match=r"Atelektasis.*Atelectasis"):
        normalise("Atelektasis")
    with pytest.raises(UnknownFinding):
        normalise("Rib fracture", VINDR)
    with pytest.raises(UnknownFinding, match="lesion"):
        normalise("lesion", ())
    assert normalise("Lesion", ["lesion"]) == "lesion"
