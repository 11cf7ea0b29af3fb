"""``chexnode users``: who may sign in to the console."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from chexnode.cli.options import Json, group, ledger_of, print_result, print_table
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.roles import Role

if TYPE_CHECKING:
    from chexnode.ledger.users import User

users_app = group("Add, change, list and remove the people who may sign in to the console.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, . _ @ and -.")]


@users_app.command("add")
def add(
    ctx: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Option(help="What they may do; each role may do what those before it may.")],
    json: Json = False,
) -> None:
    """Add somebody; the password is asked for, or read as the first line of standard input."""
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", name):
        raise Usage(f"{name!r} is no name for a user: up to 64 letters, digits, . _ @ and -")
    with ledger_of(ctx) as ledger:
        user = ledger.users.add(name, role, _password())
    print_result(json, facts(user), f"{name} may sign in as {role}")


@users_app.command("change")
def change(
    ctx: typer.Context,
    name: Name,
    role: Annotated[Role | None, typer.Option(help="Their new role.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password, as add does.")] = False,
    json: Json = False,
) -> None:
    """Give somebody another role or password; their sessions end."""
    with ledger_of(ctx) as ledger:
        ledger.users.change(name, role, _password() if password else None)
    print_result(json, {"changed": name}, f"{name} is changed, and signed out everywhere")


@users_app.command("list")
def show_all(ctx: typer.Context, json: Json = False) -> None:
    """Show who may sign in."""
    from chexnode.cli import tables

    with ledger_of(ctx) as ledger:
        found = ledger.users.list()
    print_table(json, [facts(user) for user in found], lambda: tables.users_table(found))


@users_app.command("remove")
def remove(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Remove somebody; their sessions end at once."""
    with ledger_of(ctx) as ledger:
        ledger.users.remove(name)
    print_result(json, {"removed": name}, f"{name} is removed")


def facts(user: User) -> dict[str, object]:
    """What ``--json`` prints of a user."""
    return {"name": user.name, "role": user.role.value, "created_at": user.created_at}


def _password() -> str:
    """Typed twice where somebody sits at a terminal. Raises Usage where the two differ."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    import getpass

    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise Usage("the two passwords differ")
    return password
