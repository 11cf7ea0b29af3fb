"""``chexnode destinations`` and ``replay``: who gets results, and who is given those of the past."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from chexnode.cli.options import Json, acted, group, ledger_of, print_result, print_table, settings_of, with_filter
from chexnode.vocabulary.filters import Filter

destinations_app = group("Show the destinations, pause one, or let it go on.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name in the settings.")]


@destinations_app.command("list")
def show_all(ctx: typer.Context, json: Json = False) -> None:
    """Show what waits for each destination, and how it is."""
    from chexnode.cli import tables

    known = [destination.name for destination in settings_of(ctx).destination]
    with ledger_of(ctx) as ledger:
        views = ledger.overviews.destinations(known)
    facts = [asdict(view) | {"in_settings": view.name in known} for view in views]
    print_table(json, facts, lambda: tables.destinations_table(views, known))


@destinations_app.command("pause")
def pause(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Send nothing more to a destination; what is due to it waits, and does not age, until it is resumed."""
    settings_of(ctx).destination_called(name)
    with ledger_of(ctx) as ledger:
        ledger.destinations.pause(name)
    acted(ctx, f"destination {name} paused")
    print_result(json, {"paused": name}, f"{name} is paused")


@destinations_app.command("resume")
def resume(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Send to a paused destination again."""
    with ledger_of(ctx) as ledger:
        waiting = ledger.destinations.resume(name)
    acted(ctx, f"destination {name} resumed")
    print_result(json, {"resumed": name, "waiting": waiting}, f"{name} is sent to again: {waiting} deliveries waited")


@with_filter
def replay(
    ctx: typer.Context,
    *,
    destination: Annotated[str, typer.Option(metavar="NAME", help="Who is given them.")],
    wanted: Filter,
    json: Json = False,
) -> None:
    """Give a destination the results of the past that it never got: the valid ones, in the forms that it wants."""
    from chexnode.spool.spool import Spool
    from chexnode.work.history import give_history

    settings = settings_of(ctx)
    to = settings.destination_called(destination)
    with ledger_of(ctx) as ledger:
        given = give_history(ledger, Spool(settings.node.data_dir), settings, to, wanted)
    acted(ctx, f"{given.results} results of the past given to destination {destination}")
    sentence = f"{given.results} result(s) of {given.images} image(s) will be sent to {destination}"
    if given.lacking:
        sentence += f"; {given.lacking} image(s) have no results in a form that it wants"
    print_result(json, asdict(given), sentence)
