"""Which of a site's rules (``[[rule]]``) decides on an image: the first whose conditions all hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from pydicom.dataset import Dataset

from chexnode.settings.rule import CONDITIONS, RuleSettings
from chexnode.triage.header import Header

_TAGS: Mapping[str, tuple[int, ...]] = {
    "station": (0x00081010,),
    "institution": (0x00080080,),
    "manufacturer": (0x00080070,),
    "modality": (0x00080060,),
    "description": (0x00081030, 0x0008103E, 0x00181030),
}


def deciding_rule(rules: Sequence[RuleSettings], ds: Dataset, calling_ae_title: str = "") -> RuleSettings | None:
    """Return the first rule that matches the header ``ds``, whatever it holds, and who sent it; None if none does."""
    header = Header(ds)

    def said(condition: str) -> Iterable[str]:
        if condition == "calling_ae_title":
            return (calling_ae_title.upper(),)
        return (header.text(tag) for tag in _TAGS[condition])

    return next((rule for rule in rules if _matches(rule, said)), None)


def _matches(rule: RuleSettings, said: Callable[[str], Iterable[str]]) -> bool:
    patterns = {condition: getattr(rule, condition) for condition in CONDITIONS}
    return all(
        any(fnmatchcase(text, pattern.upper()) for text in said(condition))
        for condition, pattern in patterns.items()
        if pattern is not None
    )
