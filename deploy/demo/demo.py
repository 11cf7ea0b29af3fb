"""`make demo`: radiographs from a PACS through ChexNode and back, on this machine, with nothing left running.

A PACS and a node start on free ports in a temporary folder; the PACS stores each radiograph to the node by C-STORE, as
an auto-routing rule would, and the node stores its results back into the PACS. The pictures under ``demo-out/`` are
drawn from the Secondary Captures that came back.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from exchange import Exchange, Sent
from local_node import AE_TITLE, LocalNode, free_port
from pacs import LOOPBACK, Pacs, choose
from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from chextrain.data.phantom_dicom import write_files

MODEL = "chexnomaly"
PHANTOM_MODEL = "phantom64"
"""Trained on phantoms alone: the chest model knows real chests, and what it says about a drawn one means little."""

STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo; exit code 0 if every image came back or was answered with a reason, else 1 (2: usage)."""
    arguments = _arguments()
    console = Console()
    for number in STOPPERS:
        signal.signal(number, _interrupt)
    try:
        files = list(_given(arguments.files))
    except ValueError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="chexnode-demo-") as folder, ExitStack() as stack:
            return _run(Path(folder), files, arguments, console, stack)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="DICOM files, or folders of them, beside the phantoms")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the pictures")
    parser.add_argument("--model", help=f"one bundle for all; else {PHANTOM_MODEL} for phantoms, {MODEL} for files")
    parser.add_argument("--phantoms", type=int, default=4, help="how many phantoms to draw")
    parser.add_argument("--small-pacs", action="store_true", help="do not use Orthanc")
    return parser.parse_args()


def _given(paths: Iterable[Path]) -> Iterable[Path]:
    """The DICOM files named, and those in the folders named. Raises ValueError for a name that is no DICOM file."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file() and _is_dicom(file))
        elif not path.is_file():
            raise ValueError(f"{path}: there is no such file")
        elif not _is_dicom(path):
            raise ValueError(f"{path}: not a DICOM file")
        else:
            yield path


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132).endswith(b"DICM")


def _run(folder: Path, files: Sequence[Path], arguments: argparse.Namespace, console: Console, stack: ExitStack) -> int:
    phantoms = [Sent(path, True) for path in write_files(folder / "phantoms", arguments.phantoms)]
    groups = {arguments.model or PHANTOM_MODEL: phantoms}
    groups.setdefault(arguments.model or MODEL, []).extend(Sent(path, False) for path in files)
    port = free_port()
    pacs = choose(folder / "pacs", (free_port(), free_port()), (AE_TITLE, port), arguments.small_pacs)
    stack.callback(pacs.stop)
    console.print(f"PACS: {pacs.name} on {LOOPBACK}:{pacs.port}", highlight=False)
    pacs.start()
    well = True
    for number, (model, sent) in enumerate(groups.items(), 1):
        if sent:
            node = LocalNode(folder / f"node-{number}", model, (pacs.ae_title, pacs.port), port)
            well &= _round(pacs, node, sent, arguments.out, console)
    console.print("[yellow]Research use only - not for diagnosis.[/]")
    return 0 if well else 1


def _round(pacs: Pacs, node: LocalNode, sent: Sequence[Sent], out: Path, console: Console) -> bool:
    """Everything that one model analyses; whether all of it went well."""
    with ExitStack() as stack:
        stack.callback(_stop, node, console)
        try:
            with _progress(console) as progress:
                starting = progress.add_task(f"node: chexnode up with {node.model}", total=1)
                node.start()
                node.wait_ready(progress.refresh)
                progress.update(starting, completed=1)
                storing = progress.add_task("C-STORE from the PACS to the node", total=len(sent))
                coming = progress.add_task("results back in the PACS", total=len(sent))

                def tell(stored: int, over: int) -> None:
                    progress.update(storing, completed=stored)
                    progress.update(coming, completed=over)

                Exchange(pacs, node, sent, tell).run()
        except (RuntimeError, OSError) as error:
            console.print(f"[red]{escape(str(error))}[/]")
            _show_log(node, console)
            return False
        pictures = _draw(sent, out)
        console.print(_table(sent))
        for path in pictures:
            console.print(f"picture: {path}", highlight=False, soft_wrap=True)
        if all(one.is_well for one in sent):
            return True
        console.print("[red]Not everything came back; the column 'findings' says why.[/]")
        _show_log(node, console)
        return False


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(SpinnerColumn(), *columns, console=console)


def _table(sent: Sequence[Sent]) -> Table:
    models = {str(one.job["model"]) for one in sent if one.job.get("model")}
    table = Table("file", "score", "findings", "time", "objects", title=f"model: {', '.join(models) or 'none'}")
    if models and next(iter(models)).startswith(PHANTOM_MODEL):
        table.caption = 'trained on phantoms alone; FILES="..." shows the chest model at work'
    table.columns[0].overflow = "fold"
    for column in (1, 3):
        table.columns[column].justify = "right"
    for one in sent:
        score = one.job.get("score")
        table.add_row(
            escape(one.path.name),
            "" if score is None else f"{score:.2f}",
            _findings(one),
            f"{one.last_at - one.stored_at:.1f} s" if one.last_at > one.stored_at else "",
            " + ".join(one.kinds) or "[dim]none[/]",
        )
    return table


def _findings(one: Sent) -> str:
    if one.problem:
        return f"[red]not stored: {escape(one.problem)}[/]"
    state = one.state or "no answer from the node"
    if one.lacks:
        return f"[red]{' and '.join(one.lacks)} did not come back[/]"
    if state != "DONE":
        why = one.job.get("reason") or one.job.get("error") or "no reason"
        words = "not analysed" if state in {"NOT_ANALYSED", "REFUSED"} else state
        return f"[yellow]{escape(words)}: {escape(str(why)[:200])}[/]"
    regions = one.job.get("regions") or 0
    verdict = {True: "abnormal", False: "no finding", None: "not evaluated"}[one.job.get("abnormal")]
    return verdict + (f", {regions} region{'s' * (regions > 1)}" if regions else "")


def _draw(sent: Sequence[Sent], out: Path) -> list[Path]:
    """Write the Secondary Capture of each image as a PNG and return the files."""
    made = []
    for one in sent:
        for ds in one.results:
            if ds.SOPClassUID == SecondaryCaptureImageStorage:
                out.mkdir(parents=True, exist_ok=True)
                stem = re.sub(r"[^\w.-]", "_", one.path.stem)
                again = sum(path.stem.startswith(stem) for path in made)
                made.append(out / (f"{stem}-{again + 1}.png" if again else f"{stem}.png"))
                Image.fromarray(ds.pixel_array).save(made[-1])
    return made


def _stop(node: LocalNode, console: Console) -> None:
    """End the node; a second Ctrl-C meanwhile must not leave half of it running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPERS}
    for command in node.stop():
        console.print(f"[yellow]did not end by itself and was killed: {escape(command)}[/]")
    for number, handler in before.items():
        signal.signal(number, handler)


def _show_log(node: LocalNode, console: Console) -> None:
    console.rule("the end of the node's log")
    console.print(escape(node.log_tail()), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
