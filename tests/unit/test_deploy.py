"""deploy/, as far as it can be checked without a container engine or a running systemd."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement

from chexnode.cli import commands as cli
from chexnode.settings.keys import known_keys
from chexnode.settings.loading import load
from chexnode.settings.tree import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PASSWORDS = {"POSTGRES_PASSWORD": "one", "ORTHANC_PASSWORD": "two"}


def run(*command: str | Path, **variables: str) -> str:
    """Run a checker; its output, which must not be a complaint."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, env=os.environ | variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def find(tool: str) -> str:
    """A checker on the PATH or beside this Python; skip without it."""
    path = shutil.which(tool, path=os.environ["PATH"] + os.pathsep + str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def compose() -> list[str]:
    """Docker's compose client, which needs no engine to check a file."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    return [find("docker-compose")]


def test_the_dockerfile_passes_hadolint() -> None:
    run(find("hadolint"), DEPLOY / "Dockerfile")


@pytest.mark.parametrize("name", ["build", "receiver", "torch", "worker"])
def test_every_package_of_an_image_has_a_version_and_digests(name: str) -> None:
    for package, entry in lock(name).items():
        assert re.match(rf"{package}==[^ ]+ \\\n", entry), entry
        assert re.fullmatch(r"( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+", entry.partition("\n")[2]), entry


@pytest.mark.parametrize(("extra", "names"), [("", ["receiver"]), ("worker", ["worker", "torch"])])
def test_the_locks_are_of_what_the_project_asks_for(extra: str, names: list[str]) -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    locked = {package: entry for name in names for package, entry in lock(name).items()}
    for requirement in map(Requirement, asked):
        version = locked[requirement.name].split()[0].partition("==")[2]
        assert requirement.specifier.contains(version), f"{requirement} but {version}: run deploy/requirements/lock.py"


def test_the_demo_asks_for_every_package_that_it_imports() -> None:
    """`make demo` installs the extra ``demo`` and nothing else; this environment has more than that."""
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {Requirement(one).name for one in (*project["dependencies"], *extras["worker"], *extras["demo"])}
    imported: set[str] = set()
    for file in (DEPLOY / "demo").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    own = {file.stem for file in (DEPLOY / "demo").glob("*.py")} | {"chexnode", "chexmodels", "chextrain"}
    foreign = {name.partition(".")[0] for name in imported} - own - sys.stdlib_module_names
    providers = packages_distributions()
    assert "pynetdicom" in foreign, "nothing was read"
    assert [name for name in foreign if not asked & {each.lower() for each in providers[name]}] == []


def lock(name: str) -> dict[str, str]:
    """Package -> its entry."""
    text = (DEPLOY / "requirements" / f"{name}.txt").read_text()
    entries = re.findall(r"^[a-z0-9].*(?:\n .*)*", text, re.M)
    return {entry.partition("==")[0]: entry for entry in entries}


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=["cpu", "gpu"])
def test_compose_accepts_its_files(files: list[str]) -> None:
    options = [part for name in files for part in ("-f", str(DEPLOY / name))]
    shown = run(*compose(), *options, "config", **PASSWORDS)
    for service in ("postgres", "redis", "migrate", "receiver", "worker", "web", "orthanc"):
        assert f"  {service}:\n" in shown


def test_compose_publishes_loopback_only_and_has_no_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    published = re.findall(r'[ "]([^ "]+):\d+"?\]?(?: #.*)?$', text, re.M)
    ports = [port for port in published if re.search(r"PORT", port)]
    assert len(ports) == 5
    assert all(port.startswith(("127.0.0.1:", "${CHEXNODE_DICOM_ADDRESS:-127.0.0.1}:")) for port in ports)
    assert all(f"${{{name}:?" in text for name in PASSWORDS)  # compose stops where one is not set


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_its_units(unit: Path, tmp_path: Path) -> None:
    # It looks for the program, which is installed elsewhere here.
    text = unit.read_text().replace("/opt/chexnode/bin/chexnode", sys.executable)
    copy = tmp_path / unit.name
    copy.write_text(text)
    assert run(find("systemd-analyze"), "verify", copy) == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_confined(unit: Path) -> None:
    """Memory, tasks and system calls bounded; what systemd itself says of it stays below the figure in the how-to."""
    text = unit.read_text()
    for line in (
        "MemoryMax=",
        "TasksMax=",
        "SystemCallFilter=@system-service",
        "UMask=0077",
        "StateDirectoryMode=0700",
    ):
        assert f"\n{line}" in text
    said = run(find("systemd-analyze"), "security", "--offline=true", "--threshold=26", unit)
    assert "Overall exposure level" in said


def test_there_is_a_unit_for_each_role_and_for_everything() -> None:
    commands = {
        re.findall(r"^ExecStart=/opt/chexnode/bin/chexnode (\w+)$", unit.read_text(), re.M)[0] for unit in UNITS
    }
    assert commands == {"up", "receive", "worker", "web"}
    assert commands <= set(typer.main.get_group(cli.app).commands)


@pytest.mark.parametrize("name", ["compose/chexnode.toml", "systemd/chexnode.toml"])
def test_the_settings_files_are_read(name: str) -> None:
    settings, path = load(DEPLOY / name)
    assert path == DEPLOY / name
    assert settings.node.data_dir == Path("/var/lib/chexnode")
    assert [d.name for d in settings.destination] == ["pacs"]
    assert settings.peer


def test_the_variables_are_settings() -> None:
    known = {"CHEXNODE_" + key.replace(".", "__").upper() for key in known_keys(Settings)}
    known |= {"CHEXNODE_CONFIG", "CHEXNODE_DICOM_ADDRESS", "CHEXNODE_DICOM_PORT"}  # the last two are compose's own
    used = set()
    for file in ("Dockerfile", "compose.yaml", "README.md"):
        used |= set(re.findall(r"\bCHEXNODE_\w+", (DEPLOY / file).read_text()))
    assert used
    assert used <= known


def test_the_image_copies_what_the_wheel_needs() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    packages = {package.split("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    copied = set(re.findall(r"^COPY (\w+) \1$", (DEPLOY / "Dockerfile").read_text(), re.M))
    let_in = set(re.findall(r"^!(\w+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M))
    assert packages == copied
    assert packages <= let_in
