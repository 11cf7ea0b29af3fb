"""Check data sets, train models, export them as bundles, evaluate them, draw phantoms."""
# Nothing heavy is imported at the top: --help answers at once, and a wrong option before torch is loaded.

from __future__ import annotations

import functools
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chextrain.config import ConfigError, keys_text, load_config
from chextrain.data.kinds import Consensus, Format
from chextrain.recipes.stages import NAMES, all_stages

if TYPE_CHECKING:
    from chexmodels.bundle import ModelCard
    from chextrain.data.cases import Collection

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class Split(StrEnum):
    """Parts of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


RecipeName = StrEnum("RecipeName", {name.upper(): name for name in NAMES})
"""What can be trained."""

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data set; phantoms need none.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Layout of the data set.")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Keep decoded images here.")]
ConsensusOption = Annotated[
    Consensus | None, typer.Option("--consensus", help="How several readers' boxes become one truth. [default: soft]")
]
SeedOption = Annotated[
    int | None, typer.Option("--split-seed", help="Of the hash that shares out the patients. [default: 0]")
]
SizesOption = Annotated[
    Path | None, typer.Option("--sizes", help="CSV of image_id, rows, columns of the originals of reduced pictures.")
]
GroupsOption = Annotated[
    Path | None, typer.Option("--groups", help="CSV of the patients: image_id, group; or RSNA's JSON of NIH images.")
]
CleanNormalsOption = Annotated[
    float, typer.Option("--clean-normals", min=0, max=1, help="What second_reader promises, as a share.")
]
AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Also a model that marks nothing or is below the mean mask; the card says so.")
]


@app.command()
def index(
    format_: FormatOption,
    data: DataOption = None,
    consensus: ConsensusOption = None,
    split_seed: SeedOption = None,
    sizes: SizesOption = None,
    groups: GroupsOption = None,
    check_images: Annotated[
        bool, typer.Option("--check-images", help="Decode every image, and find those that are in two splits.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Check a data set: count what is there, name the rows that cannot be used; exit code 1 if there are any."""
    from chextrain.data import indexing
    from chextrain.data.formats import DataSource

    source = DataSource(format_, data, consensus or Consensus.SOFT, split_seed or 0, sizes, groups)
    listing = None if format_ is Format.PHANTOM else source.listing()
    built = source.built(listing)
    found = indexing.index(listing, built)
    if check_images:
        found = indexing.with_images(found, built.collection)
    typer.echo(json.dumps(asdict(found), indent=2) if json_ else indexing.text(found))
    raise typer.Exit(0 if found.usable else 1)


def train(
    recipe: RecipeName,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    format_: FormatOption,
    data: DataOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; else the defaults.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, after the file.")] = None,
    cache: CacheOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last epoch, perhaps for more epochs.")
    ] = False,
    devices: Annotated[
        str | None, typer.Option("--devices", help="How many GPUs or processes. [default: auto]")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="Lightning's, such as ddp. [default: auto]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Lightning's, such as 32-true. [default: bf16-mixed]")
    ] = None,
    consensus: ConsensusOption = None,
    split_seed: SeedOption = None,
    sizes: SizesOption = None,
    groups: GroupsOption = None,
    folds: Annotated[
        int, typer.Option("--folds", min=0, help="Train as often, each time with another fold for validation.")
    ] = 0,
    **stages: Path | None,
) -> None:
    """Train RECIPE, keep the weights that validate best in OUT. Keys and defaults: docs/reference/training.md."""
    from chextrain.recipes import training
    from chextrain.recipes.folds import cross_validate
    from chextrain.recipes.registry import RECIPES

    name = recipe.value
    options = _options(
        ("data", {"consensus": consensus, "split_seed": split_seed}),
        ("training", {"devices": devices, "strategy": strategy, "precision": precision}),
    )
    values = load_config(config, [*(set_ or ()), *options], RECIPES[name].defaults)
    collection = read(format_, data, values.data.consensus, values.data.split_seed, sizes, groups)
    given = {stage: folder for stage, folder in stages.items() if folder is not None}
    if folds:
        typer.echo(cross_validate(name, collection, format_, values, out, given, folds, cache=cache, resume=resume))
        return
    training.train(name, collection, format_, values, out, given, cache=cache, resume=resume, report=typer.echo)
    typer.echo(training.summary(name, out, format_))


def _with_stages(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with an option for every stage of every recipe in place of its ``**stages``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Option(f"--{name}", help=stage.help)],
        )
        for name, stage in all_stages().items()
    ]

    @functools.wraps(command)
    def with_stages(**values: Any) -> None:
        command(**values)

    vars(with_stages)["__signature__"] = signature.replace(parameters=[*own, *options])
    with_stages.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return with_stages


app.command("train", epilog=keys_text())(_with_stages(train))


@app.command()
def export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS", help="Folders of finished runs, or bundles by name or folder; several are averaged."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    name: Annotated[str, typer.Option("--name")],
    version: Annotated[str, typer.Option("--version")],
    format_: FormatOption,
    failures: Annotated[Path, typer.Option("--failures", help="Text for the card: where the model fails.")],
    data: DataOption = None,
    cache: CacheOption = None,
    clean_normals: CleanNormalsOption = 0.8,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average with what is seen in the mirrored image.")] = False,
    anyway: AnywayOption = False,
    sizes: SizesOption = None,
    groups: GroupsOption = None,
) -> None:
    """Calibrate RUNS on the validation split, score them on test, write bundle and card."""
    said = failures.read_text().strip()
    data_set = functools.partial(_data_set, format_, data, sizes, groups)
    card = _write_bundle(sources, mirror, format_, data_set, out, name, version, said, cache, clean_normals, anyway)
    typer.echo((out / "card.md").read_text())
    typer.echo(f"{card.title} {card.digest}")


@app.command()
def rebuild(
    bundle: Annotated[
        str, typer.Argument(help="Shipped bundle by name, or folder of one; its card names its trainings.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs, and of OUT/bundle.")],
    data: DataOption = None,
    cache: CacheOption = None,
    clean_normals: CleanNormalsOption = 0.8,
    anyway: AnywayOption = False,
    sizes: SizesOption = None,
    groups: GroupsOption = None,
) -> None:
    """Train BUNDLE again from nothing and export it; a second call goes on where the first was interrupted."""
    from chexmodels.bundle import BundleError
    from chextrain.recipes import rebuild as rebuilding

    try:
        plan = rebuilding.planned(bundle, out)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    data_set = functools.partial(_data_set, plan.format, data, sizes, groups)
    rebuilding.train(plan.trainings, lambda values: data_set(values.data.model_dump()), cache, typer.echo)
    said = f"Made again from the card of {plan.card.title}, which says where that one fails."
    write = functools.partial(_write_bundle, said=said, cache=cache, clean_normals=clean_normals, anyway=anyway)
    whole, parts = out / "bundle", []
    for number, each in enumerate(plan.averages, start=1):
        parts.append(out / f"bundle-{number}" if plan.is_panel else whole)
        if not (parts[-1] / "card.md").is_file():
            typer.echo(f"{each.name} {each.version}: {parts[-1]}")
            write(list(map(str, each.runs)), each.mirror, plan.format, data_set, parts[-1], each.name, each.version)
    if plan.is_panel:
        write(list(map(str, parts)), False, plan.format, data_set, whole, plan.card.name, plan.card.version)
    typer.echo(f"{whole}. Next: chextrain evaluate {bundle} {whole} --split val --format {plan.format} ...")


def _data_set(
    format_: Format, data: Path | None, sizes: Path | None, groups: Path | None, values: Mapping[str, Any]
) -> Collection:
    """The data set with the readers and splits of a run's ``values`` of section ``data``."""
    return read(format_, data, values["consensus"], values["split_seed"], sizes, groups)


def _write_bundle(
    sources: list[str],
    mirror: bool,
    format_: Format,
    data_set: Callable[[Mapping[str, Any]], Collection],
    out: Path,
    name: str,
    version: str,
    said: str,
    cache: Path | None,
    clean_normals: float,
    anyway: bool,
) -> ModelCard:
    """Average ``sources`` and write the bundle to ``out``; raises ``ConfigError`` for what makes none."""
    from chexmodels.bundle import BundleError
    from chexmodels.registry import heat_kind
    from chextrain.evaluate.export import export as write
    from chextrain.evaluate.export_classifier import export_classifier
    from chextrain.evaluate.scored_split import NothingToScore
    from chextrain.recipes.panel import averaged

    try:
        run, network = averaged(sources, mirror, format_)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    make = export_classifier if heat_kind(run.architecture) == "none" else write
    try:
        return make(run, network, out, name, version, said, data_set(run.values["data"]), cache, clean_normals, anyway)
    except NothingToScore as error:
        raise ConfigError(str(error)) from error


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Shipped bundles by name, folders of bundles, folders of runs.")],
    format_: FormatOption,
    data: DataOption = None,
    split: Annotated[Split, typer.Option("--split", help="Which images.")] = Split.TEST,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.md, report.json, plots and a gallery of the images.")
    ] = None,
    cache: CacheOption = None,
    external_format: Annotated[
        Format | None, typer.Option("--external-format", help="Layout of another data set, all of which is test.")
    ] = None,
    external: Annotated[Path | None, typer.Option("--external", help="Folder of that data set.")] = None,
    consensus: ConsensusOption = None,
    split_seed: SeedOption = None,
    sizes: SizesOption = None,
    groups: GroupsOption = None,
) -> None:
    """Score MODELS on a split: the paper's tables, and metrics beside the baselines that need no network."""
    from chexmodels.bundle import BundleError
    from chextrain.evaluate.models import read_model
    from chextrain.evaluate.report import assemble, write
    from chextrain.evaluate.scored_split import NothingToScore

    collection = read(format_, data, consensus, split_seed, sizes, groups)
    other = read(external_format, external, None, None, None, None) if external_format else None
    try:
        report = assemble([read_model(model) for model in models], collection, split, cache, other)
    except (BundleError, NothingToScore) as error:
        raise ConfigError(str(error)) from error
    typer.echo(report.markdown())
    if report.known:
        typer.echo(f"chextrain: {report.known}", err=True)
    for path in write(report, out) if out else ():
        typer.echo(path)


@app.command()
def stack(
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.")],
    name: Annotated[str, typer.Option("--name")],
    version: Annotated[str, typer.Option("--version")],
    localiser: Annotated[str | None, typer.Option("--localiser", help="Bundle that says where and whether.")] = None,
    scorer: Annotated[str | None, typer.Option("--scorer", help="Bundle for a second opinion on whether.")] = None,
    classifier: Annotated[str | None, typer.Option("--classifier", help="Bundle that scores findings by name.")] = None,
) -> None:
    """Write several bundles as one, which the node runs as one model."""
    from chexmodels.bundle import BundleError, Role, find
    from chexmodels.compose import compose

    given: dict[Role, str | None] = {"localiser": localiser, "scorer": scorer, "classifier": classifier}
    try:
        card = compose({role: find(bundle) for role, bundle in given.items() if bundle}, out, name, version)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    typer.echo(f"{card.title} {card.digest}")


class Target(StrEnum):
    """Formats that a bundle is written in."""

    CHEXNODE = "chexnode"
    ONNX = "onnx"
    MONAI_BUNDLE = "monai-bundle"


@app.command()
def convert(
    bundle: Annotated[str, typer.Argument(help="Name of a shipped bundle, or a folder.")],
    to: Annotated[Target, typer.Option("--to", help="Format.")],
    out: Annotated[Path, typer.Option("--out", help="Folder.")],
) -> None:
    """Write a bundle as an ONNX graph or a MONAI bundle, if it gives the same map within 0.001."""
    from chexmodels.bundle import BundleError, find
    from chextrain.evaluate.convert import to_monai, to_onnx

    try:
        if to is Target.CHEXNODE:
            shutil.copytree(find(bundle), out)
            typer.echo(f"{out}: the bundle as it is")
            return
        difference = (to_onnx if to is Target.ONNX else to_monai)(bundle, out)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    typer.echo(f"{out}: maps differ by at most {difference:.1g} from the bundle's")


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


def read(
    format_: Format,
    data: Path | None,
    consensus: str | None = None,
    split_seed: int | None = None,
    sizes: Path | None = None,
    groups: Path | None = None,
) -> Collection:
    """The data set at ``data``; raises ``BadData``."""
    from chextrain.data.formats import DataSource

    return DataSource(
        format_, data, Consensus(consensus or Consensus.SOFT), split_seed or 0, sizes, groups
    ).collection()


def _options(*sections: tuple[str, dict[str, Any]]) -> list[str]:
    """Options that are values of a recipe, as ``--set`` would give them."""
    return [
        f"{section}.{key}={value}" for section, given in sections for key, value in given.items() if value is not None
    ]


def main() -> None:
    """Entry point; wrong configuration and unusable data exit with code 2."""
    try:
        app()
    except ValueError as error:
        from chextrain.data.findings import UnknownFinding
        from chextrain.data.rows import BadData

        if not isinstance(error, ConfigError | BadData | UnknownFinding):
            raise
        typer.echo(f"chextrain: {error}", err=True)
        sys.exit(2)
