"""The names and values of settings, flat: ``destination.name``, and ``destination[0].name`` where there are several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the tree ``model``, ``destination.name`` for the fields of a table array."""
    for name, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is None:
            yield prefix + name
        else:
            yield from known_keys(inner, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, or holds several of; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is tuple:
        first = get_args(annotation)[0]
        if isinstance(first, type) and issubclass(first, BaseModel):
            return first
    return None


def masked(url: str) -> str:
    """``url`` with its passwords, before the host or in the query, replaced by stars."""
    parts = urlsplit(url)
    query = "&".join(_hidden(one) for one in parts.query.split("&"))
    netloc = parts.netloc
    if parts.password is not None:
        netloc = f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"
    return (
        url
        if (netloc, query) == (parts.netloc, parts.query)
        else urlunsplit(parts._replace(netloc=netloc, query=query))
    )


def _hidden(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    is_secret = any(word in name.lower() for word in ("pass", "pwd", "secret", "token", "key"))
    return f"{name}=***" if equals and is_secret else parameter


def flat(settings: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every setting, list entries as ``destination[0].name``; secrets masked."""
    yield from _flat(settings, "")


def _flat(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        key = prefix + name
        if isinstance(value, BaseModel):
            yield from _flat(value, key + ".")
        elif isinstance(value, tuple) and section_of(type(model).model_fields[name].annotation):
            for index, entry in enumerate(value):
                yield from _flat(entry, f"{key}[{index}].")
            if not value:
                yield key, []
        else:
            plain = json.loads(json.dumps(value, default=str))
            yield key, masked(plain) if name == "url" and isinstance(plain, str) else plain
