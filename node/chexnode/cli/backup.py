"""``chexnode backup``, ``restore`` and ``recover``: so that nothing acknowledged is lost with a disk or a database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from chexnode.cli.options import Json, ledger_of, print_result, settings_of

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup, outside data_dir.")]


def backup(ctx: typer.Context, folder: Folder, json: Json = False) -> None:
    """Back up the ledger and the spool while the node runs; into the same folder again, only what is new is copied."""
    from chexnode.keep import backup as backups

    settings = settings_of(ctx)
    with ledger_of(ctx) as ledger:
        made = backups.save(ledger, settings.node.data_dir, folder)
    print_result(
        json, asdict(made), f"{made.images} image(s), {made.files} file(s), {made.copied} of them new, in {folder}"
    )


def restore(ctx: typer.Context, folder: Folder, json: Json = False) -> None:
    """Put a backup back, to an empty data_dir and an empty database; nothing may run on them."""
    from chexnode.keep import backup as backups

    made = backups.restore(settings_of(ctx), folder)
    print_result(json, asdict(made), f"restored {made.files} file(s) as of {made.taken_at:%Y-%m-%d %H:%M:%S} UTC")


def recover(ctx: typer.Context, json: Json = False) -> None:
    """Record the received objects that the ledger does not know, all where it is new; harmless when repeated."""
    from chexnode.keep.recovery import Recovery
    from chexnode.ledger.database import Database
    from chexnode.ledger.migrate import upgrade
    from chexnode.node import Node

    settings = settings_of(ctx)
    database = Database(settings.database.url)
    upgrade(database)
    database.close()
    with Node.open(settings, "recover", recovering=True) as node:
        count = Recovery(node).recover_all()
    print_result(json, {"recovered": count}, f"{count} image(s) recorded again")
