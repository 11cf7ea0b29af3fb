"""The words and codes in which headers say which view, which part of the body and which species.

Codes: SNOMED CT and the SNOMED RT ones they replaced (PS3.16 CID 4010 DX View, CID 4009 DX Anatomy Imaged).
"""

from __future__ import annotations

import re
from enum import Enum


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


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


_FRONTAL_CODES = _set("399033003 R-10202 272479007 R-40888 399348003 R-10206")
_LATERAL_CODES = _set(
    "399067008 R-102CD 399198007 R-10232 399173006 R-10236 399352003 R-10228 399260004 R-10224 30730003 G-A145"
)
_OBLIQUE_CODES = _set(
    "399038007 R-10210 399059000 R-10216 399135007 R-10220 260427002 R-40783 399236003 R-10234 399356000 R-40985 "
    "399312000 R-10208 399184004 R-10238 399182000 R-102C1 260426006 R-40782 399160007 R-10204 399006002 R-10212 "
    "399132005 R-10252 399325008 R-10254 399004004 R-10246"
)
_FRONTAL_WORDS = _set("PA AP FRONTAL POSTEROANTERIOR ANTEROPOSTERIOR POSTERO ANTERO DV VD")
_DECUBITUS_WORDS = _set("LLD RLD DECUB DECUBITUS DECUBITO")
_LATERAL_WORDS = _set("LL RL LAT LATERAL LLAT RLAT LLATERAL RLATERAL LATERALE SEITLICH PROFIL PROFILE")
_OBLIQUE_WORDS = _set("RAO LAO RPO LPO RLO LLO OBL OBLIQUE OBLIQUO OBLICUA SCHRAEG")

_CHEST_CODES = _set("816094009 51185008 T-D3000 43799004 T-D3200 39607008 T-28000 72410000 T-D3300 80891009 T-32000")
_CHEST_STEMS = ("CHEST", "THORA", "TORAX", "TÓRAX", "TORAC", "THX", "CXR", "LUNG", "PULMO", "POUMON", "BRUST", "HEART")
#: Words that make a chest word mean something else: thoracic spine, chest and abdomen, ribs.
_OTHER_STEMS = ("SPIN", "ABDOM", "PELVI", "LUMBAR", "NECK", "VERTEB", "WIRBEL", "STERN", "CLAVI", "BREAST", "MAMM")
#: Parts that a description may name where no attribute names one. Whole words only.
_OTHER_WORDS = _set(
    "ABDOMEN KUB PELVIS HIP HIPS FEMUR KNEE KNEES TIBIA FIBULA ANKLE FOOT FEET TOE TOES CALCANEUS PATELLA LEG "
    "EXTREMITY SHOULDER CLAVICLE SCAPULA HUMERUS ELBOW FOREARM WRIST HAND HANDS FINGER FINGERS THUMB SKULL SINUS "
    "SINUSES FACIAL MANDIBLE JAW TEETH TOOTH DENTAL PANORAMIC NECK SPINE CSPINE TSPINE LSPINE SACRUM COCCYX "
    "BREAST MAMMO RIBS RIB STERNUM"
)
_NO_BODY_PART = frozenset(
    ("", "UNKNOWN", "UNK", "NONE", "NA", "N A", "OTHER", "DEFAULT", "UNSPECIFIED", "NOT SPECIFIED", "UNDEFINED", "XX")
)

_HUMAN_CODES = frozenset({"337915000", "L-85003"})
_HUMAN_WORDS = frozenset(("HUMAN", "HOMO", "SAPIENS", "MENSCH", "HUMAIN", "HUMANO", "UMANO", "PERSON"))
_NOTHING_SAID = frozenset({"", "NA", "N A", "NONE", "UNKNOWN", "UNSPECIFIED", "UNDEFINED"})
_ANIMAL_WORDS = _set(
    "CANINE FELINE EQUINE BOVINE PORCINE OVINE AVIAN DOG VETERINARY VETERINARIAN VETERINAIRE VETERINARIO "
    "VETERINARIA TIERARZT TIERKLINIK TIERMEDIZIN"
)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def view_of(text: str, code: str = "") -> View:
    """Read a View Position value, or a code and its meaning; ``text`` in upper case."""
    if code in _LATERAL_CODES:
        return View.LATERAL
    if code in _OBLIQUE_CODES:
        return View.OBLIQUE
    if code in _FRONTAL_CODES:
        return View.FRONTAL
    words = set(_words(text))
    if words & _DECUBITUS_WORDS:
        return View.DECUBITUS
    if words & _OBLIQUE_WORDS:
        return View.OBLIQUE
    frontal, lateral = bool(words & _FRONTAL_WORDS), bool(words & _LATERAL_WORDS)
    if frontal == lateral:  # "PA AND LATERAL" names the examination, not the image
        return View.UNKNOWN
    return View.LATERAL if lateral else View.FRONTAL


def body_part_of(text: str, code: str = "") -> BodyPart:
    """Read a Body Part Examined value, or a code and its meaning; what is named and is no chest is another part.

    Ribs, sternum, clavicles, the thoracic spine and chest-and-abdomen are other parts: exposed and framed for
    something else than the lungs.
    """
    if code in _CHEST_CODES:
        return BodyPart.CHEST
    words = _words(text)
    plain = " ".join(words)
    if plain in _NO_BODY_PART:
        return BodyPart.UNKNOWN if not code else BodyPart.OTHER
    if any(stem in plain for stem in _OTHER_STEMS) or any(word.startswith("RIB") for word in words):
        return BodyPart.OTHER
    if any(word.startswith(_CHEST_STEMS) for word in words) or "胸" in plain:
        return BodyPart.CHEST
    return BodyPart.OTHER


def described_part(text: str) -> BodyPart:
    """Read a study, series or protocol description, which names the part only by the way."""
    words = _words(text)
    if any(word.startswith(_CHEST_STEMS) for word in words):
        return BodyPart.CHEST
    return BodyPart.UNKNOWN if _OTHER_WORDS.isdisjoint(words) else BodyPart.OTHER


def is_human(text: str, code: str = "") -> bool | None:
    """Read a Patient Species or Breed value, or a code and its meaning; None where it says nothing."""
    words = _words(text)
    if code in _HUMAN_CODES or _HUMAN_WORDS & set(words):
        return True
    return None if " ".join(words) in _NOTHING_SAID and not code else False


def names_an_animal(text: str) -> bool:
    """Whether a protocol, description or institution speaks of an animal patient."""
    return not _ANIMAL_WORDS.isdisjoint(_words(text))
