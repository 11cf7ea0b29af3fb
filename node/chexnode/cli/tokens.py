"""``chexnode tokens``: who may use the web role."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.options import Json, group, ledger_of, print_result, print_table
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.scopes import TokenScope

if TYPE_CHECKING:
    from chexnode.ledger.tokens import Token

tokens_app = group("Make, list and revoke the tokens that clients of the web role show.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is: letters, digits, . _ and -.")]


@tokens_app.command("add")
def add(
    ctx: typer.Context,
    name: Name,
    scope: Annotated[
        list[TokenScope], typer.Option(help="What it is good for; repeatable. admin is good for everything.")
    ],
    days: Annotated[
        int | None, typer.Option(min=1, max=36500, help="How long it is valid; none: until revoked.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a token and print it: this once, for only its SHA-256 is kept."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise Usage(f"{name!r} is no name for a token: up to 64 letters, digits, . _ and -")
    with ledger_of(ctx) as ledger:
        token, secret = ledger.tokens.add(name, scope, timedelta(days=days) if days else None)
    print_result(json, facts(token) | {"token": secret}, secret)


@tokens_app.command("list")
def show_all(ctx: typer.Context, json: Json = False) -> None:
    """Show all tokens, without their secrets."""
    from chexnode.cli import tables

    with ledger_of(ctx) as ledger:
        found = ledger.tokens.list()
    print_table(json, [facts(token) for token in found], lambda: tables.tokens_table(found))


@tokens_app.command("revoke")
def revoke(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """End a token at once."""
    with ledger_of(ctx) as ledger:
        ledger.tokens.revoke(name)
    print_result(json, {"revoked": name}, f"{name} is revoked")


@tokens_app.command("open")
def open_door(ctx: typer.Context, json: Json = False) -> None:
    """Ask nobody for a token again, once all tokens are revoked and all users removed; on a loopback address only."""
    with ledger_of(ctx) as ledger:
        ledger.tokens.open_door()
    print_result(json, {"open": True}, "whoever is on this machine may do everything over HTTP")


def facts(token: Token) -> dict[str, object]:
    """What ``--json`` prints of a token."""
    return {
        "name": token.name,
        "scopes": [scope.value for scope in token.scopes],
        "created_at": token.created_at,
        "expires_at": token.expires_at,
    }
