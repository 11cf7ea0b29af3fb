"""The list of images: narrowed down, searched, paged, live, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from chexnode.ledger.images import STATES, ImageSearch, ImageView, Place
from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import moment
from chexnode.vocabulary.plain import plain
from chexnode.vocabulary.reasons import Reason
from chexnode.web.access import access
from chexnode.web.console.overview import stream
from chexnode.web.console.pages import HEADERS, Pages
from chexnode.web.console.visitor import Turned, Visitor, visiting

SIZE = 50
#: How a formula may begin, in the wide forms of East Asian keyboards too.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_FIELDS = ("q", "state", "reason", "caller", "station", "model", "abnormal", "score", "since", "until")


def router(node: Node, pages: Pages) -> APIRouter:
    """The page, its stream and its export."""
    routes = APIRouter()
    images = node.ledger.images
    stays = visiting(node.trail, is_active=False)
    looking, staying = Depends(visiting(node.trail)), Depends(stays)

    def values(request: Request, visitor: Visitor) -> dict[str, Any]:
        access().is_search = True
        given = {name: request.query_params.get(name, "") for name in _FIELDS}
        try:
            search = _search(given, visitor)
            place = _place(request.query_params)
        except (Usage, ValueError) as error:
            raise Turned(400, "turned.search", why=plain(error)) from error
        page = images.page(search, SIZE, place)
        rows = page.rows if visitor.sees_patients else tuple(row.anonymous() for row in page.rows)
        chosen = {name: value for name, value in given.items() if value}
        return {
            "rows": rows,
            "given": given,
            "narrowed": bool(chosen),
            "count": images.count(search),
            "is_first": place is None,
            "query": urlencode(chosen),
            "newer": urlencode(chosen | _link(rows[0].place, "before")) if rows and page.has_newer else "",
            "older": urlencode(chosen | _link(rows[-1].place, "after")) if rows and page.has_older else "",
        }

    @routes.get("/images")
    def page(request: Request, visitor: Visitor = looking) -> Response:
        choices = images.choices() | {"state": list(STATES), "reason": list(Reason)}
        return pages.page(request, visitor, "images", choices=choices, **values(request, visitor))

    @routes.get("/live/images")
    async def live(request: Request, visitor: Visitor = staying) -> Response:
        part = partial(pages.html, request, visitor, "_images.html")
        return stream(node, lambda: part(**values(request, visitor)), lambda: stays(request))

    @routes.get("/images.csv")
    def export(request: Request, visitor: Visitor = looking) -> Response:
        access().is_search = True
        try:
            search = _search({name: request.query_params.get(name, "") for name in _FIELDS}, visitor)
        except (Usage, ValueError) as error:
            raise Turned(400, "turned.search", why=plain(error)) from error
        rows = images.all(search)
        if not visitor.sees_patients:
            rows = (row.anonymous() for row in rows)
        headers = HEADERS | {"Content-Disposition": 'attachment; filename="images.csv"'}
        return StreamingResponse(_csv(rows), headers=headers, media_type="text/csv; charset=utf-8")

    return routes


def _search(given: dict[str, str], visitor: Visitor) -> ImageSearch:
    """Raises Usage and ValueError for what cannot be understood."""
    if given["state"] and given["state"] not in STATES:
        raise Usage(f"no state {given['state']!r}")
    return ImageSearch(
        text=given["q"][:200],
        with_patients=visitor.sees_patients,
        state=given["state"],
        reason=given["reason"],
        caller=given["caller"],
        station=given["station"],
        model=given["model"],
        abnormal={"yes": True, "no": False}.get(given["abnormal"]),
        least_score=float(given["score"].replace(",", ".")) if given["score"] else None,
        since=moment(given["since"]) if given["since"] else None,
        until=moment(given["until"], end=True) if given["until"] else None,
    )


def _place(query: Any) -> Place | None:
    for name in ("after", "before"):
        if name in query:
            at, uid, digest = query[name].split("~")
            return Place(datetime.fromisoformat(at), uid, digest, is_back=name == "before")
    return None


def _link(place: Place, name: str) -> dict[str, str]:
    return {name: f"{place.at.isoformat()}~{place.sop_instance_uid}~{place.digest}"}


def _csv(rows: Iterator[ImageView]) -> Iterator[str]:
    names = [field.name for field in fields(ImageView) if field.name != "digest"]
    yield "\ufeff" + ",".join(names) + "\r\n"
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer).writerow([csv_cell(getattr(row, name)) for name in names])
        yield buffer.getvalue()


def csv_cell(value: object) -> str:
    """As text that no spreadsheet takes for a formula: one that could be one begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    text = plain(value)
    return f"'{text}" if isinstance(value, str) and text.lstrip()[:1] in _FORMULA else text
