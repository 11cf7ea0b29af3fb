"""``chexnode models``: which bundles there are, whether one works, and how a stranger's model becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chexnode.cli.options import Json, group, need, print_json, print_result, settings_of
from chexnode.vocabulary.errors import BadEnvironment, Usage

if TYPE_CHECKING:
    from chexmodels.bundle import ModelCard
    from chexnode.settings.tree import Settings

models_app = group("The models that this node can run: list and check them, bring one in.", no_args_is_help=True)

FOLDER = "models"
"""Inside the data directory: where models that were brought in lie."""


@models_app.command("add")
def add(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="PATH", exists=True, help="A bundle, a MONAI bundle (folder) or an ONNX file.")
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="TOML: input size, which output is what, calibration."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder's name; otherwise the source's.")] = None,
    json: Json = False,
) -> None:
    """Make a bundle of PATH in the data directory, and run it once. It serves when model.bundle names its folder."""
    need("torch", "monai")
    import shutil

    from chexmodels.adopt import adopt
    from chexmodels.bundle import MODEL_JSON, BundleError, read_card

    folder = settings_of(ctx).node.data_dir / FOLDER / (name or source.stem)
    if folder.exists():
        raise Usage(f"{folder} is there already: give another --name, or remove it")
    try:
        if (source / MODEL_JSON).is_file():
            read_card(source)
            shutil.copytree(source, folder)
            card = read_card(folder)
        else:
            card = adopt(source, folder, mapping)
        faults = _faults(folder)
    except BundleError as error:
        raise Usage(str(error)) from error
    said = "".join(f"\nnote: {fault}" for fault in faults)
    text = f'{card.title} is in {folder}\nto use it: [model] bundle = "{folder}"{said}'
    print_result(json, {**_facts(folder, card), "notes": faults}, text)


@models_app.command("list")
def show_all(ctx: typer.Context, json: Json = False) -> None:
    """Show the bundles that came with the package and those that were brought in."""
    from chexmodels.bundle import BundleError, read_card

    rows: list[dict[str, Any]] = []
    for folder in _folders(settings_of(ctx)):
        try:
            rows.append(_facts(folder, read_card(folder)))
        except BundleError as error:
            rows.append({"folder": folder, "error": str(error)})
    if json:
        print_json(rows)
        return
    for row in rows:
        print(
            f"{row['folder']}: {row['error']}"
            if "error" in row
            else f"{row['model']}  {row['architecture']}, {row['size']} px  {row['folder']}"
        )


@models_app.command("check")
def check(
    ctx: typer.Context,
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="Name or folder; otherwise the one that is configured.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify a bundle, run it on drawn pictures, and name what does not fit; exit code 1 if anything does not."""
    need("torch", "monai")
    from chexmodels.bundle import BundleError, find, read_card

    settings = settings_of(ctx)
    try:
        folder = find(bundle or settings.model.bundle)
        card, faults = read_card(folder), _faults(folder, settings.model.operating_point)
    except BundleError as error:
        raise BadEnvironment(str(error)) from error
    lines = [f"{card.title}: {'works' if not faults else 'has faults'}", *(f"  {fault}" for fault in faults)]
    print_result(json, {**_facts(folder, card), "faults": faults}, "\n".join(lines))
    if faults:
        raise typer.Exit(1)


def _folders(settings: Settings) -> list[Path]:
    from chexmodels.bundle import MODEL_JSON, SHIPPED

    places = (SHIPPED, settings.node.data_dir / FOLDER)
    return sorted(path.parent for place in places for path in place.glob(f"*/{MODEL_JSON}"))


def _facts(folder: Path, card: ModelCard) -> dict[str, Any]:
    return {
        "model": card.title,
        "digest": card.digest,
        "architecture": card.architecture,
        "size": card.size,
        "heat_kind": card.heat_kind,
        "operating_points": sorted(card.operating_points),
        "folder": folder,
    }


def _faults(folder: Path, operating_point: str | None = None) -> list[str]:
    """What does not fit in the model in ``folder``; raises ``BundleError`` where it cannot even be loaded or run."""
    from chexmodels.trial import faults

    return faults(folder, operating_point)
