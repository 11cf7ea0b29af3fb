"""Where the resources of the Studies Service are (PS3.18 section 10.3), and routes to them at each level."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.datastructures import URL

from chexnode.ledger.objects import StoredObject

ROOT = "/dicom-web"

_uid = Path(pattern=r"^[0-9.]{1,128}$")
Study = Annotated[str, _uid]
Series = Annotated[str, _uid]
Instance = Annotated[str, _uid]

INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"
"""The path of one instance below :data:`ROOT`."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A study, a series of it, or an instance of that, by its UIDs."""

    study: str
    series: str | None = None
    instance: str | None = None
    superseded: bool = False
    """Whether results that are valid no longer are part of it."""


Superseded = Annotated[bool, Query(description="Also results that newer ones of the same image have superseded.")]


# Coroutines, because a function would be run in a thread of its own.
async def _study(study: Study, includesuperseded: Superseded = False) -> Resource:
    return Resource(study, superseded=includesuperseded)


async def _series(study: Study, series: Series, includesuperseded: Superseded = False) -> Resource:
    return Resource(study, series, superseded=includesuperseded)


async def _instance(
    study: Study, series: Series, instance: Instance, includesuperseded: Superseded = False
) -> Resource:
    return Resource(study, series, instance, includesuperseded)


_LEVELS: Mapping[str, tuple[str, Callable[..., Awaitable[Resource]]]] = {
    "study": ("/studies/{study}", _study),
    "series": ("/studies/{study}/series/{series}", _series),
    "instance": (INSTANCE, _instance),
}

Answer = Callable[[Request, Resource], Response] | Callable[[Request, Resource], Awaitable[Response]]


def at_each_level(router: APIRouter, suffix: str, name: str, about: str, answer: Answer, responses: Any) -> None:
    """Add ``answer`` for ``suffix`` below a study, a series and an instance.

    ``about``: what it gives, with ``{}`` for the level, as the OpenAPI document says it.
    """
    for level, (path, resource) in _LEVELS.items():
        router.add_api_route(
            path + suffix,
            _endpoint(answer, resource),
            responses=responses,
            name=f"{name}_of_{level}",
            description=about.format(f"an {level}" if level == "instance" else f"a {level}"),
        )


def _endpoint(answer: Any, resource: Callable[..., Awaitable[Resource]]) -> Callable[..., Any]:
    named = Depends(resource)
    if iscoroutinefunction(answer):

        async def endpoint(request: Request, resource: Resource = named) -> Response:
            response: Response = await answer(request, resource)
            return response

        return endpoint

    def blocking(request: Request, resource: Resource = named) -> Response:
        response: Response = answer(request, resource)
        return response

    return blocking


def base_url(request: Request) -> str:
    """The address of the service as the client called it.

    Some clients leave the port out of their Host header: where no proxy can have meant it so, it is ours.
    """
    url = URL(str(request.base_url))
    server = request.scope.get("server")
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host"))
    if url.port is None and server is not None and not forwarded:
        usual = 443 if url.scheme == "https" else 80
        url = url.replace(port=server[1] if server[1] != usual else None)
    return str(url).rstrip("/") + ROOT


def url_of(base: str, entry: StoredObject) -> str:
    """The address of one instance."""
    return instance_url(base, entry.study_instance_uid, entry.series_instance_uid, entry.sop_instance_uid)


def instance_url(base: str, study: str, series: str, instance: str) -> str:
    """The address of one instance by its UIDs."""
    return base + INSTANCE.format(study=study, series=series, instance=instance)
