"""``chexnode viewer``: OHIF, which the web role shows studies in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chexnode.cli.options import Json, group, print_result, settings_of

viewer_app = group("The viewer that the web role shows studies in.", no_args_is_help=True)


@viewer_app.command("fetch")
def fetch(
    ctx: typer.Context,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The package's file, as `npm pack` saves it, where this machine has no way to a registry.",
        ),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The npm registry to ask; otherwise the one that npm is configured for."),
    ] = None,
    json: Json = False,
) -> None:
    """Fetch OHIF from npm (50 MB), check it, and put it where the web role looks: web.viewer. Once is enough."""
    from chexnode.cli import tables
    from chexnode.web.viewer import install

    settings = settings_of(ctx)
    folder = install.install(settings.viewer_home, archive, registry, tables.downloading)
    url = f"{settings.web_url}/viewer/"
    print_result(
        json, {"version": install.VERSION, "folder": str(folder), "url": url}, f"OHIF {install.VERSION} is at {url}"
    )
