"""``chexnode deliveries``: what was sent where, and sending it again."""

from __future__ import annotations

from typing import Annotated

import typer

from chexnode.cli.options import (
    Accession,
    Json,
    Limit,
    Patient,
    Since,
    States,
    Study,
    Until,
    group,
    is_for_subcommand,
    ledger_of,
    print_json,
    print_result,
    settings_of,
)
from chexnode.vocabulary.errors import Usage

deliveries_app = group("Show what was sent where, or send it again.")


@deliveries_app.callback()
def deliveries(
    ctx: typer.Context,
    state: States = None,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this destination.")] = None,
    accession: Accession = None,
    patient: Patient = None,
    study: Study = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show what was sent where, newest first; or send it again."""
    if is_for_subcommand(ctx):
        return
    from chexnode.cli import tables
    from chexnode.vocabulary import filters

    states = filters.delivery_states(state or ())
    with ledger_of(ctx) as ledger:
        wanted = filters.given(accession, patient, study, since, until)
        found = ledger.views.deliveries(states, destination, limit=limit, wanted=wanted)
    if json:
        print_json(found)
    else:
        tables.show(tables.deliveries_table(found))


@deliveries_app.command("replay")
def deliveries_replay(
    ctx: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Delivery ids.")] = None,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Everything to this destination.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything to every destination.")] = False,
    dead_only: Annotated[bool, typer.Option("--dead-only", help="Of these, only the DEAD ones.")] = False,
    accession: Accession = None,
    patient: Patient = None,
    study: Study = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Send results again, the very same bytes: of some ids, of one destination, of a patient, study or time, or all."""
    from chexnode.vocabulary import filters

    wanted = filters.given(accession, patient, study, since, until)
    if bool(ids) + everything + (destination is not None or not wanted.is_empty) != 1:
        raise Usage("give delivery ids; or --destination NAME, --accession, --patient, --study, --since; or --all")
    known = [d.name for d in settings_of(ctx).destination]
    if destination is not None and destination not in known:
        raise Usage(f"no destination {destination!r} in the settings; there are: {', '.join(known) or 'none'}")
    with ledger_of(ctx) as ledger:
        count = ledger.deliveries.replay(ids=ids or (), destination=destination, dead_only=dead_only, wanted=wanted)
        gone = 0 if ids or dead_only or not wanted.is_empty else ledger.deliveries.past_retention(destination)
    sentence = f"{count} {'delivery' if count == 1 else 'deliveries'} will be sent again"
    if gone:
        sentence += f"; {gone} cannot be: retention has deleted the files"
    print_result(json, {"replayed": count, "past_retention": gone}, sentence)
