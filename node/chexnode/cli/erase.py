"""``chexnode erase``: a patient or a study, and all that is known of it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from chexnode.cli.options import Exit, Json, print_json, settings_of
from chexnode.vocabulary.errors import Usage


def erase(
    ctx: typer.Context,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The patient's ID.")] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who issued the ID; '': images that do not say so.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Or one study, by its Study Instance UID.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long destinations have to withdraw the results.")
    ] = 60,
    json: Json = False,
) -> None:
    """Erase a patient or a study: images, results, rows, history, and audit messages not yet shipped.

    Destinations are asked to withdraw the results first. Exit code 1 if one could not be, or if the database's files
    still hold remains: then erase again.
    """
    from getpass import getuser
    from socket import gethostname

    from chexnode.node import Node
    from chexnode.operate.erase import count
    from chexnode.operate.erase import erase as erase_all
    from chexnode.vocabulary.filters import Filter

    if bool(patient) == bool(study):
        raise Usage("give --patient ID, or --study UID")
    whose = Filter(patient=patient or None, issuer=issuer, study=study or None)
    with Node.open(settings_of(ctx), "erase") as node:
        extent = count(node, whose).erased
        counted = (
            f"{extent.studies} studies, {extent.images} images ({extent.unfinished} not analysed yet), "
            f"{extent.results} results, {extent.deliveries} deliveries"
        )
        if dry_run:
            if json:
                print_json(asdict(extent))
            else:
                print(f"would erase {counted}")
            return
        if not yes:
            if json or not sys.stdin.isatty():
                raise Usage("nobody can be asked here: give --yes, or --dry-run")
            typer.confirm(f"erase {counted} for good?", abort=True)
        erasure = erase_all(node, whose, wait, (getuser(), gethostname()))
    if json:
        print_json(asdict(erasure))
    else:
        print(f"erased {counted}; {erasure.files} files, {erasure.audit_messages} audit messages not yet shipped")
        for name in sorted(erasure.withdrawn):
            print(f"{name}: withdrawn")
        for name, why in sorted(erasure.not_withdrawn.items()):
            print(f"{name}: NOT withdrawn: {why}")
        if not erasure.scrubbed:
            print("the database file is busy and may still hold remains: erase again when the node is quiet")
    raise typer.Exit(Exit.SOME_FAILED if erasure.not_withdrawn or not erasure.scrubbed else Exit.OK)
