"""What a header says of view, part of the body, species and processing, and which of its words say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from pydicom.dataset import Dataset

from chexnode.triage.header import Header
from chexnode.triage.lexicon import Lexicon, Match, lexicon

Said = TypeVar("Said")


class View(Enum):
    """The projection, as far as it matters here."""

    FRONTAL = "frontal"
    DECUBITUS = "decubitus"
    """Frontal with the patient lying on the side: analysed, but the picture may be turned."""
    LATERAL = "lateral"
    OBLIQUE = "oblique"
    UNKNOWN = "unknown"


class BodyPart(Enum):
    """What is imaged."""

    CHEST = "chest"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Statement(Generic[Said]):
    """What is said, and where."""

    said: Said
    evidence: str = ""
    """Such as ``Series Description has "PERFIL" (es)``: the lexicon's term, never the text."""
    contradicted: str = ""
    """Evidence of the contrary that counted for less; empty: none."""


_VIEW_POSITION, _VIEW_CODE, _ORIENTATION = 0x00185101, 0x00540220, 0x00200020
_BODY_PART, _REGION = 0x00180015, 0x00082218
#: Descriptions of one image or its series, the nearest to the image first.
IMAGE_DESCRIPTIONS = {
    0x00181400: "Acquisition Device Processing Description",
    0x0008103E: "Series Description",
    0x00181030: "Protocol Name",
}
#: Descriptions of all that was done or asked for: they tell the part, but a study of two views holds both.
STUDY_DESCRIPTIONS = {
    0x00400254: "Performed Procedure Step Description",
    0x00081030: "Study Description",
    0x00321060: "Requested Procedure Description",
}
_PROTOCOL_CODE = 0x00400260
_DESCRIPTIONS = {**IMAGE_DESCRIPTIONS, **STUDY_DESCRIPTIONS}
#: What is taken for another part although Body Part Examined says chest: as many descriptions that name it, no less.
_OUTVOTED = 2


def view_of(text: str, words: Lexicon, *, code: str = "", position: bool = False) -> tuple[View, Match | None]:
    """Read a text, or a code and its meaning; ``position``: the text is a View Position, which has abbreviations.

    "PA AND LATERAL" names an examination, and so no view.
    """
    meanings = words.of_code(code)
    for view in (View.LATERAL, View.OBLIQUE, View.DECUBITUS, View.FRONTAL):
        if f"view.{view.value}" in meanings:
            return view, None
    found: dict[str, Match] = {}
    for match in words.find(text):
        if match.group == "view" and (position or match.language != "position"):
            found.setdefault(match.name, match)
    for view in (View.DECUBITUS, View.OBLIQUE):
        if view.value in found and not (view is View.OBLIQUE and len(found) > 1 and not position):
            return view, found[view.value]
    if ("frontal" in found) == ("lateral" in found):
        return View.UNKNOWN, None
    view = View.LATERAL if "lateral" in found else View.FRONTAL
    return view, found[view.value]


def part_of(text: str, words: Lexicon) -> tuple[BodyPart, Match | None]:
    """Read a description, which may name a part by the way; one that names the chest and another part decides nothing.

    In "thoracic spine" the adjective names no chest.
    """
    found = [match for match in words.find(text) if match.group == "part"]
    by = {name: [m for m in found if m.name == name] for name in ("chest", "adjective", "spine", "other")}
    other = next(iter((*by["spine"], *by["other"])), None)
    chest = [m for m in by["chest"] if not (by["spine"] and any(m.overlaps(a) for a in by["adjective"]))]
    if chest and other is None:
        return BodyPart.CHEST, chest[0]
    if other is not None and not chest:
        return BodyPart.OTHER, other
    return BodyPart.UNKNOWN, None


def body_part_of(text: str, words: Lexicon | None = None, code: str = "") -> BodyPart:
    """Read a Body Part Examined value, or a code and its meaning; what is named and is no chest is another part."""
    words = words or lexicon()
    if "part.chest" in words.of_code(code):
        return BodyPart.CHEST
    found = words.find(text)
    named = part_of(text, words)[0]
    if not any(c.isalnum() for c in text) or (any(m.meaning == "part.unsaid" for m in found) and not code):
        return BodyPart.UNKNOWN if named is BodyPart.UNKNOWN and not code else named
    return BodyPart.CHEST if named is BodyPart.CHEST else BodyPart.OTHER


def view(header: Header, words: Lexicon) -> Statement[View]:
    """Say which view a header states.

    View Position and View Code Sequence come first, the least frontal of them; then Patient Orientation of a lateral;
    then the descriptions of the image. Study descriptions decide nothing. What contradicts the first is kept.
    """
    stated: list[tuple[View, str]] = []
    position, match = view_of(header.text(_VIEW_POSITION), words, position=True)
    codes = [
        (view_of(meaning, words, code=code)[0], "View Code Sequence") for code, meaning in header.codes(_VIEW_CODE)
    ]
    first = [(position, _quoted("View Position", match)), *codes]
    order = (View.LATERAL, View.OBLIQUE, View.DECUBITUS, View.FRONTAL)
    stated += sorted((each for each in first if each[0] in order), key=lambda each: order.index(each[0]))[:1]
    towards = _orientation(header)
    if towards is not None:
        stated.append((towards, "Patient Orientation"))
    for tag, name in IMAGE_DESCRIPTIONS.items():
        said, match = view_of(header.text(tag), words)
        if said is not View.UNKNOWN:
            stated.append((said, _quoted(name, match)))
    for code, meaning in header.codes(_PROTOCOL_CODE):
        said, match = view_of(meaning, words, code=code)
        if said is not View.UNKNOWN:
            stated.append((said, "Performed Protocol Code Sequence"))
    if not stated:
        return Statement(View.UNKNOWN)
    said, evidence = stated[0]
    frontal = (View.FRONTAL, View.DECUBITUS)
    contrary = [e for v, e in stated[1:] if (v in frontal) != (said in frontal)]
    return Statement(said, evidence, contrary[0] if contrary else "")


def _orientation(header: Header) -> View | None:
    """Rows that run towards the front or the back of the patient are those of a lateral (PS3.3 C.7.6.1.1.1)."""
    row, *column = header.values(_ORIENTATION)
    if not row or not column or column[0][:1] not in ("F", "H"):
        return None
    if row[0] in "AP":
        return View.LATERAL
    return View.OBLIQUE if row[0] in "LR" and set(row[1:]) & {"A", "P"} else None


def body_part(header: Header, words: Lexicon) -> Statement[BodyPart]:
    """Say which part of the body a header states.

    Body Part Examined comes first, then Anatomic Region Sequence, then the descriptions. Many devices write CHEST as
    they were delivered: where two descriptions or more name another part and none the chest, they are believed.
    """
    described = [
        (tag, part, _quoted(name, match))
        for tag, name in _DESCRIPTIONS.items()
        for part, match in [part_of(header.text(tag), words)]
        if part is not BodyPart.UNKNOWN
    ]
    chest = [evidence for _, part, evidence in described if part is BodyPart.CHEST]
    other = [evidence for _, part, evidence in described if part is BodyPart.OTHER]
    examined = body_part_of(header.text(_BODY_PART), words)
    evidence = "Body Part Examined"
    if examined is BodyPart.UNKNOWN:
        regions = {body_part_of(meaning, words, code) for code, meaning in header.codes(_REGION)}
        examined = next((p for p in (BodyPart.CHEST, BodyPart.OTHER) if p in regions), BodyPart.UNKNOWN)
        evidence = "Anatomic Region Sequence"
    if examined is BodyPart.CHEST and other and not chest:
        if len(other) >= _OUTVOTED:
            return Statement(BodyPart.OTHER, other[0], evidence)
        return Statement(BodyPart.CHEST, evidence, other[0])
    if examined is not BodyPart.UNKNOWN:
        return Statement(examined, evidence)
    if chest or other:
        of_image = [statement for statement in described if statement[0] in IMAGE_DESCRIPTIONS]
        parts = {part for _, part, _ in of_image or described}
        if len(parts) == 1:
            return Statement(parts.pop(), (of_image or described)[0][2])
    return Statement(BodyPart.UNKNOWN)


def animal(header: Header, words: Lexicon) -> str | None:
    """Return what says that the patient is an animal, or None."""
    for name, text, codes in (("Species", 0x00102201, 0x00102202), ("Breed", 0x00102292, 0x00102293)):
        said = [_is_human(meaning, words, code) for code, meaning in (("", header.text(text)), *header.codes(codes))]
        if False in said and True not in said:
            return f"Patient {name} names an animal"
    if header.text(0x00102203):
        return "Patient's Sex Neutered is stated"
    if header.text(0x00102298) == "OWNER":
        return "Responsible Person Role is OWNER"
    if header.text(_VIEW_POSITION) in ("VD", "DV"):
        return "View Position is one of animals, VD or DV"
    for tag, name in (*_DESCRIPTIONS.items(), (0x00080080, "Institution Name")):
        meanings = ("species.veterinary",) if tag == 0x00080080 else ("species.veterinary", "species.animal")
        for match in words.find(header.text(tag)):
            if match.meaning in meanings:
                return _quoted(name, match)
    for _code, meaning in header.codes(_PROTOCOL_CODE):
        for match in words.find(meaning):
            if match.meaning in ("species.animal", "species.veterinary"):
                return _quoted("Performed Protocol Code Sequence", match)
    return None


def _is_human(text: str, words: Lexicon, code: str) -> bool | None:
    """Read a Patient Species or Breed value, or a code and its meaning; None where it says nothing."""
    meanings = {match.meaning for match in words.find(text)} | words.of_code(code)
    if "species.human" in meanings:
        return True
    return None if not code and ("species.unsaid" in meanings or not text.strip()) else False


def processing(header: Header, words: Lexicon) -> str | None:
    """Return what says that bones or tissue were taken out, that images were subtracted or that it is a test image."""
    if header.text(0x00280300) == "YES":
        return "Quality Control Image is YES"
    # Pixel Data Characteristics and Patient Examination Characteristics (values 1 and 2) say nothing of this.
    for value in header.values(0x00080008)[2:]:
        for match in words.find(value):
            if match.meaning == "picture.processed":
                return _quoted("Image Type", match)
    return next(_found(header, words, "picture.processed", (0x0008103E, 0x00181400, 0x00082111)), None)


def algorithm(header: Header, words: Lexicon) -> str | None:
    """Return what says that an algorithm made the image, or drew on it."""
    if header.text(0x00080064) == "SYN":
        return "Conversion Type is SYN, a synthetic image"
    if {"AI", "CAD"} & set(header.values(0x00080008)):
        return "Image Type says AI or CAD"
    return next(_found(header, words, "picture.algorithm", (0x00080070, 0x00081090, 0x0008103E, 0x00082111)), None)


def is_by_algorithm(manufacturer: str, series_description: str, words: Lexicon | None = None) -> bool:
    """Whether what an archive lists of a series says that an algorithm made it, or drew on it."""
    listed = Dataset()
    listed.Manufacturer, listed.SeriesDescription = manufacturer, series_description
    return algorithm(Header(listed), words or lexicon()) is not None


_NAMES = {
    0x00080070: "Manufacturer",
    0x00081090: "Manufacturer's Model Name",
    0x0008103E: "Series Description",
    0x00082111: "Derivation Description",
    0x00181400: "Acquisition Device Processing Description",
}


def _found(header: Header, words: Lexicon, meaning: str, tags: tuple[int, ...]) -> Iterator[str]:
    for tag in tags:
        yield from (_quoted(_NAMES[tag], match) for match in words.find(header.text(tag)) if match.meaning == meaning)


def _quoted(name: str, match: Match | None) -> str:
    if match is None:
        return name
    language = "" if match.language in ("any", "position") else f" ({match.language})"
    return f'{name} has "{match.term}"{language}'
