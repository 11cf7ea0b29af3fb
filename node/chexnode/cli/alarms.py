"""``chexnode alarms``: what is wrong, and whether alarms arrive."""

from __future__ import annotations

import typer

from chexnode.cli.options import Exit, Json, group, ledger_of, print_json, print_result, settings_of
from chexnode.vocabulary.errors import Transient, Usage

alarms_app = group("Show what is wrong, or send a test to whoever is told.", no_args_is_help=True)


@alarms_app.command("list")
def show_all(ctx: typer.Context, json: Json = False) -> None:
    """Show the alarms that were sent and are not over. Exit code 1 if there is one."""
    with ledger_of(ctx) as ledger:
        found = ledger.alarms.list()
    if json:
        print_json(found)
    else:
        for alarm in found:
            print(f"{alarm.since:%Y-%m-%d %H:%M} {alarm.severity} {alarm.rule}: {alarm.detail}")
        if not found:
            print("no alarm")
    raise typer.Exit(Exit.SOME_FAILED if found else Exit.OK)


@alarms_app.command("test")
def send_test(ctx: typer.Context, json: Json = False) -> None:
    """Send a test to every channel of the settings. Exit code 1 if one does not take it."""
    from chexnode.alarms.channels import channels, trial

    settings = settings_of(ctx)
    found = channels(settings.alarms)
    if not found:
        raise Usage("nobody is told of alarms: set alarms.email_to, alarms.webhook or alarms.apprise")
    notice = trial(settings.node.ae_title, f"{settings.web_url}/console")
    failed: dict[str, str] = {}
    for name, send in found.items():
        try:
            send(notice)
        except Transient as error:
            failed[name] = str(error)
    lines = [f"{name}: {failed.get(name, 'sent')}" for name in found]
    print_result(json, {name: failed.get(name, "sent") for name in found}, "\n".join(lines))
    raise typer.Exit(Exit.SOME_FAILED if failed else Exit.OK)
