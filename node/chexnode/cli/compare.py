"""``chexnode compare``: two models on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.options import Json, print_json, settings_of, with_filter
from chexnode.vocabulary.filters import Filter

if TYPE_CHECKING:
    from rich.console import RenderableType

    from chexnode.vocabulary.reports import Comparison


@with_filter
def compare(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="A model: its name in the settings, or name and version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other, likewise.")],
    *,
    wanted: Filter,
    json: Json = False,
) -> None:
    """Say how far two models agree on the images that both have answered, and list those on which they do not."""
    from chexnode.cli import tables
    from chexnode.node import Node
    from chexnode.operate.compare import compare as compared
    from chexnode.web.viewer import install

    settings = settings_of(ctx)
    has_viewer = install.installed(settings.viewer_home) is not None
    with Node.open(settings, "compare") as node:
        found = compared(
            node, a, b, wanted, lambda uid: install.study_url(settings.web_url, uid) if has_viewer else None
        )
    if json:
        print_json(found)
    else:
        tables.show(*_parts(found))


def _parts(found: Comparison) -> list[RenderableType]:
    from chexnode.cli.tables import TextTable
    from chexnode.logs import escaped

    facts = TextTable("IMAGES", "BOTH", "ONLY A", "ONLY B", "NEITHER", "AGREEMENT", "KAPPA", "PEARSON", "SPEARMAN")
    counts = (found.images, found.both, found.only_a, found.only_b, found.neither)
    figures = (found.agreement, found.kappa, found.pearson, found.spearman)
    facts.add_row(*map(str, counts), *("" if value is None else f"{value:.3f}" for value in figures))
    parts: list[RenderableType] = [f"A: {escaped(found.model_a)}", f"B: {escaped(found.model_b)}", facts]
    if found.not_evaluated:
        parts.append(f"{found.not_evaluated} more image(s) that one or both could not evaluate")
    if found.discordant:
        listing = TextTable(
            "ACCESSION", "ABNORMAL BY", "A", "B", "SOP INSTANCE UID", "STUDY", title="discordant images"
        )
        for one in found.discordant:
            scores = ("" if score is None else f"{score:.3f}" for score in (one.score_a, one.score_b))
            by = "A" if one.abnormal_a else "B"
            where = one.link or escaped(one.study_instance_uid)
            listing.add_row(escaped(one.accession_number or ""), by, *scores, escaped(one.sop_instance_uid), where)
        parts += ["", listing]
    return parts
