"""The DICOM conformance statement of this release, a section at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from markupsafe import Markup

from chexnode.node import Node
from chexnode.web.console.markdown import html
from chexnode.web.console.pages import HEADERS, Pages
from chexnode.web.console.visitor import Turned, Visitor, visiting

_NAME = "dicom-conformance.md"
_HERE = Path(__file__).resolve()
#: In an installed package, and in a checkout.
_PLACES = (_HERE.parent / "documents" / _NAME, *(one / "docs" / "reference" / _NAME for one in _HERE.parents[4:5]))


@dataclass(frozen=True, slots=True)
class DocumentSection:
    """One section, and how deep it is."""

    number: str
    title: str
    depth: int
    text: str
    """Markdown, with the section's heading."""

    @property
    def html(self) -> Markup:
        """The section as HTML, to be shown."""
        return html(self.text)


def router(node: Node, pages: Pages) -> APIRouter:
    """The page, and the whole as it is written."""
    routes = APIRouter(prefix="/node")
    looking = Depends(visiting(node.trail))

    @routes.get("/conformance")
    def conformance(request: Request, section: str = "", visitor: Visitor = looking) -> Response:
        parts = sections(statement())
        at = next((n for n, one in enumerate(parts) if one.number == section), None if section else 0)
        if at is None:
            raise Turned(404, "turned.no_section")
        following = parts[at + 1] if at + 1 < len(parts) else None
        return pages.page(request, visitor, "conformance", parts=parts, part=parts[at], following=following)

    @routes.get("/conformance.md")
    def whole(visitor: Visitor = looking) -> Response:
        headers = HEADERS | {"Content-Disposition": f'attachment; filename="{_NAME}"'}
        return Response(statement(), 200, headers, "text/markdown; charset=utf-8")

    return routes


@cache
def statement() -> str:
    """The whole, as Markdown. Raises FileNotFoundError where the package is incomplete."""
    file = next((place for place in _PLACES if place.is_file()), _PLACES[0])
    return file.read_text("utf-8")


@cache
def sections(text: str) -> tuple[DocumentSection, ...]:
    """Its sections down to three levels; one that is nothing but a heading goes with the next."""
    found: list[DocumentSection] = []
    before = ""
    for piece in re.split(r"(?m)^(?=#{2,4} )", text)[1:]:
        heading, _, body = piece.partition("\n")
        if not body.strip():
            before += piece
            continue
        marks, number, title = re.fullmatch(r"(#+) ([\d.]+) (.+)", heading).groups()  # type: ignore[union-attr]
        found.append(DocumentSection(number, title, len(marks) - 2, before + piece))
        before = ""
    return tuple(found)
