"""Train CheX-Nomaly, export it as a bundle, evaluate it, draw phantoms."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from chextrain.config import ConfigError, load_config
from chextrain.data import nih, phantom
from chextrain.data.arrays import load
from chextrain.data.cases import Collection

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Format(StrEnum):
    """Layouts of data sets that can be read."""

    NIH = "nih"
    PHANTOM = "phantom"


class Split(StrEnum):
    """Parts of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Recipe(StrEnum):
    """What can be trained."""

    SUPERMODEL = "supermodel"
    SIAMESE = "siamese"
    CHEXNOMALY = "chexnomaly"


DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data set; phantoms need none.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Layout of the data set.")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Keep decoded images here.")]


@app.command()
def train(
    recipe: Recipe,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    format_: FormatOption,
    data: DataOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; else the defaults.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, after the file.")] = None,
    cache: CacheOption = None,
    supermodel: Annotated[Path | None, typer.Option("--supermodel", help="Run that chexnomaly starts from.")] = None,
    siamese: Annotated[Path | None, typer.Option("--siamese", help="Run whose maps chexnomaly sees.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last epoch.")] = False,
) -> None:
    """Train RECIPE, keep the weights that validate best in OUT."""
    from chextrain.runs import Run, load_network

    values = load_config(config, set_ or ())
    stages = {"supermodel": supermodel, "siamese": siamese} if recipe is Recipe.CHEXNOMALY else {}
    if None in stages.values():
        raise typer.BadParameter("chexnomaly needs --supermodel and --siamese, the runs it is made of")
    collection = read(format_, data)
    train_set, val_set = (load(collection, split, values.data.size, cache) for split in ("train", "val"))
    module = importlib.import_module(f"chextrain.recipes.{recipe}")
    networks = {stage: load_network(cast(Path, folder)) for stage, folder in stages.items()}
    made_by = {stage: Run.read(cast(Path, folder)).commands for stage, folder in stages.items()}
    Run(recipe, format_, module.ARCHITECTURE, module.parameters(values), asdict(values), made_by).write(out)
    module.train(train_set, val_set, values, out, resume=resume, **networks)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    name: Annotated[str, typer.Option("--name")],
    version: Annotated[str, typer.Option("--version")],
    format_: FormatOption,
    failures: Annotated[Path, typer.Option("--failures", help="Text for the card: where the model fails.")],
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """Calibrate RUN on the validation split, score it on test, write bundle and card."""
    from chextrain.export import export as write
    from chextrain.runs import Run

    collection = read(format_, data)
    val, test = (load(collection, split, Run.read(run).size, cache) for split in ("val", "test"))
    card = write(run, out, name, version, failures.read_text().strip(), collection, val, test)
    typer.echo((out / "card.md").read_text())
    typer.echo(f"{card.title} {card.digest}")


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="Name of a shipped bundle, or a folder.")],
    format_: FormatOption,
    data: DataOption = None,
    split: Annotated[Split, typer.Option("--split", help="Which images.")] = Split.TEST,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the numbers here, as JSON.")] = None,
    cache: CacheOption = None,
) -> None:
    """Score BUNDLE on a split, beside the baselines that need no image."""
    from chexmodels.bundle import find
    from chexmodels.calibration import pixel_probability
    from chexmodels.registry import load as load_model
    from chextrain.evaluate import evaluate as score
    from chextrain.evaluate import markdown, mean_mask
    from chextrain.predict import logits

    model = load_model(find(bundle))
    card = model.card
    collection = read(format_, data)
    arrays = load(collection, split, card.size, cache)
    prob = pixel_probability(logits(model.network, arrays), card.calibration.temperature)
    mean = mean_mask(collection, card.size)
    result = score(split, arrays, prob, card.calibration, card.operating_points, mean)
    typer.echo(f"{card.title} {card.digest}\n\n{markdown(result)}")
    if out is not None:
        out.write_text(json.dumps(result.as_dict(), indent=2) + "\n")


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 4,
    size: Annotated[int, typer.Option("--size", min=256, max=4096, help="Rows; columns are 0.85 of it.")] = 1500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first one's seed.")] = 0,
) -> None:
    """Draw chest radiographs with 0 to 3 lesions as DICOM files, to try the node with; phantoms.csv says where."""
    from chextrain.data.phantom_dicom import write_files

    for path in write_files(out, count, seed, size, round(size * 0.85)):
        typer.echo(path)


def read(format_: Format, data: Path | None) -> Collection:
    """The data set at ``data``; exits with code 2 where its format needs a folder and none is given."""
    if format_ is Format.PHANTOM:
        return phantom.collection()
    if data is None:
        raise typer.BadParameter(f"--format {format_} needs --data")
    return nih.read(data)


def main() -> None:
    """Entry point; configuration errors exit with code 2."""
    try:
        app()
    except ConfigError as error:
        typer.echo(f"chextrain: {error}", err=True)
        sys.exit(2)
