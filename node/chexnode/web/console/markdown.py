"""Markdown of ours, and of whoever made a model, as HTML that can do nothing: no markup of its own, no pictures."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from chexnode.vocabulary.plain import plain


class _Renderer(RendererHTML):
    """Headings are one level lower, links lead elsewhere on the Internet or nowhere, tables scroll by themselves."""

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        href = str(tokens[idx].attrs.pop("href", ""))
        if href.startswith(("https://", "http://")):
            tokens[idx].attrs = {"href": href, "rel": "noreferrer noopener"}
        return self.renderToken(tokens, idx, options, env)

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        tokens[idx].tag = _lower(tokens[idx].tag)
        return self.renderToken(tokens, idx, options, env)

    heading_close = heading_open

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return '<div class="scroll" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "</table></div>\n"


def _lower(tag: str) -> str:
    return f"h{min(6, int(tag[1:]) + 1)}"


_PARSER = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table").disable("image")


def html(text: str) -> Markup:
    """``text`` as HTML."""
    lines = (plain(line) for line in text.splitlines())
    return Markup(_PARSER.render("\n".join(lines)))  # noqa: S704  (the parser escapes what it does not make itself)
