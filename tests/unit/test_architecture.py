"""The directions of docs/explanation/architecture.md, held: who may import whom, and what importing may not do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {"chexnode": ROOT / "node", "chexmodels": ROOT / "models", "chextrain": ROOT / "training"}

#: Room of chexnode -> the rooms that it may import, from the ground up: a room may only name rooms above itself in this
#: table, so that no arrow runs back up. A module that lies in no room of this table fails the tests.
ROOMS: Mapping[str, str] = {
    "vocabulary": "",
    "logs": "vocabulary",
    "settings": "vocabulary",
    "tls": "vocabulary settings",
    "spool": "vocabulary settings",
    "ledger": "vocabulary",
    "queue": "vocabulary",
    "sandbox": "vocabulary settings",
    "audit": "vocabulary logs settings tls",
    "triage": "vocabulary settings",
    "encode": "vocabulary",
    "dimse": "vocabulary settings tls audit",
    "dicomweb": "vocabulary tls",
    "node": "vocabulary logs settings tls spool ledger queue audit",
    "receive": "vocabulary logs settings tls spool ledger queue audit triage dimse dicomweb node",
    "deliver": "vocabulary logs settings tls spool ledger queue audit dimse dicomweb node",
    "keep": "vocabulary logs settings spool ledger queue audit triage node receive",
    "work": "vocabulary logs settings spool ledger queue audit sandbox triage encode node deliver keep",
    "archive": "vocabulary logs settings tls spool ledger audit triage dimse dicomweb node receive",
    "alarms": "vocabulary settings spool ledger node",
    "operate": "vocabulary settings spool ledger audit node deliver work",
    "web": "vocabulary logs settings tls spool ledger queue audit sandbox dicomweb node receive deliver operate",
    "roles": "vocabulary logs settings tls spool ledger queue audit sandbox triage dimse dicomweb node receive deliver "
    "work archive keep alarms operate web",
    "cli": "vocabulary logs settings tls spool ledger audit dimse dicomweb node receive deliver work archive keep "
    "alarms operate web roles",
}

#: The same for the two other packages, a row each.
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "chexmodels": {
        "dicom": "",
        "finding": "",
        "bundle": "",
        "postprocess": "bundle",
        "boxes": "finding postprocess",
        "calibration": "bundle",
        "pixels": "dicom finding",
        "stats": "pixels",
        "model": "bundle",
        "interpret": "finding bundle postprocess calibration pixels model",
        "nets": "",
        "registry": "bundle model nets",
        "adopt": "bundle nets",
        "compose": "bundle registry",
        "trial": "bundle model registry interpret pixels",
    },
    "chextrain": {
        "data": "",
        "metrics": "",
        "config": "",
        "runs": "config",
        "fit": "data metrics config runs",
        "evaluate": "data metrics runs",
        "recipes": "data config runs fit",
        "cli": "data config runs evaluate recipes",
    },
}

#: At chexnode's root lie these and the rooms, nothing else.
ROOT_MODULES = frozenset({"node", "tls", "logs"})

#: Third-party package -> the modules (or whole packages) of ours that may import it.
OWNERS: Mapping[str, tuple[str, ...]] = {
    "sqlalchemy": ("chexnode.ledger",),
    "alembic": ("chexnode.ledger",),
    "celery": ("chexnode.queue",),
    "argon2": ("chexnode.ledger.users",),
    "authlib": ("chexnode.web.console.oidc",),
    "jinja2": ("chexnode.web.console",),
    "fastapi": ("chexnode.web",),
    "httpx": (
        "chexnode.dicomweb",
        "chexnode.deliver",
        "chexnode.archive",
        "chexnode.alarms.channels",
        "chexnode.web.viewer",
    ),
    "lightning": ("chextrain",),
}

#: Room -> what importing all of it must not load. Base install: no torch, no celery.
WITHOUT: Mapping[str, tuple[str, ...]] = {
    "chexnode.receive": ("torch", "monai", "celery"),
    "chexnode.encode": ("torch", "monai", "celery", "sqlalchemy"),
    "chexnode.web": ("torch", "monai", "celery"),
    "chexnode.deliver": ("torch", "monai", "celery"),
    "chexnode.cli.commands": ("torch", "monai", "celery"),
    "chexnode.ledger.ledger": ("pydicom", "numpy"),
    "chexnode.roles.up": ("pydicom", "numpy"),
    "chexnode.work": ("monai",),
    "chexmodels.registry": ("monai",),
    "chexmodels.finding": ("torch", "pydicom"),
    "chexmodels.pixels": ("torch",),
    "chexmodels.dicom.decode": ("torch",),
}


@dataclass(frozen=True)
class Module:
    """One source file and what it imports, as absolute dotted names, those inside functions included."""

    name: str
    path: Path
    tree: ast.Module
    imports: frozenset[str]

    @property
    def room(self) -> str:
        """The part of the package it belongs to: ``ledger`` for chexnode.ledger.jobs."""
        return self.name.split(".")[1] if "." in self.name else ""

    def uses(self, package: str) -> bool:
        """Whether it imports ``package`` or anything inside it."""
        return any(_inside(name, package) for name in self.imports)


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _modules() -> Mapping[str, Module]:
    found = {}
    for package, home in HOMES.items():
        for path in sorted((home / package).rglob("*.py")):
            parts = path.relative_to(home).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            tree = ast.parse(path.read_text("utf-8"), str(path))
            inside = name if is_package else name.rpartition(".")[0]
            found[name] = Module(name, path, tree, frozenset(_imports(tree, inside)))
    return found


def _of(package: str) -> list[Module]:
    return [module for module in _modules().values() if _inside(module.name, package)]


def test_there_is_something_to_check() -> None:
    for package in HOMES:
        assert any(module.imports for module in _of(package)), f"{package} imports nothing: is it still where it was?"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("chexmodels", ("chexnode", "chextrain")),
        ("chexnode", ("chextrain",)),
        ("chextrain", ("chexnode",)),
    ],
)
def test_packages_point_one_way(package: str, forbidden: tuple[str, ...]) -> None:
    wrong = [(m.name, other) for m in _of(package) for other in forbidden if m.uses(other)]
    assert wrong == []


def test_every_module_lies_in_a_room() -> None:
    """No module outside the table, none loose at the root, and no room without a module."""
    rooms = {module.room for module in _of("chexnode") if module.room}
    assert rooms == ROOMS.keys()
    loose = {p.stem for p in (HOMES["chexnode"] / "chexnode").glob("*.py")} - {"__init__"}
    assert loose == ROOT_MODULES


def test_the_table_of_rooms_has_no_arrow_that_runs_back_up() -> None:
    order = list(ROOMS)
    wrong = [
        (room, other) for room in ROOMS for other in ROOMS[room].split() if order.index(other) >= order.index(room)
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_its_row_names(room: str) -> None:
    may = {*ROOMS[room].split(), room}
    wrong = {(m.name, _room(name)) for m in _of(f"chexnode.{room}") for name in m.imports if _inside(name, "chexnode")}
    wrong = {(module, other) for module, other in wrong if other and other not in may}
    assert wrong == set()


@pytest.mark.parametrize(("package", "room"), [(package, room) for package in PACKAGES for room in PACKAGES[package]])
def test_the_rooms_of_models_and_training(package: str, room: str) -> None:
    """Every module lies in a room of the table, and imports only from those above it that its row names."""
    rooms = PACKAGES[package]
    assert {module.room for module in _of(package) if module.room} == rooms.keys()
    order, may = list(rooms), {*rooms[room].split(), room, ""}
    assert all(order.index(other) < order.index(room) for other in rooms[room].split())
    wrong = {(m.name, name) for m in _of(f"{package}.{room}") for name in m.imports if _inside(name, package)}
    assert {(module, name) for module, name in wrong if _room(name) not in may} == set()


def _room(name: str) -> str:
    return name.split(".")[1] if name.count(".") else ""


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_each_library_has_one_owner(package: str) -> None:
    users = {module.name for module in _modules().values() if module.uses(package)}
    assert users, f"nothing imports {package}: take it out of OWNERS and of pyproject.toml"
    assert [name for name in users if not any(_inside(name, owner) for owner in OWNERS[package])] == []


def test_the_bell_rings_without_celery() -> None:
    assert not _modules()["chexnode.queue.bell"].uses("celery")


def test_the_vocabulary_is_plain_words() -> None:
    """Every room may name a state or a reason, so the modules that define them may depend on nothing else."""
    known = sys.stdlib_module_names
    names = {(m.name, name) for m in _of("chexnode.vocabulary") for name in m.imports}
    assert [n for n in names if n[1].split(".")[0] not in known and not _inside(n[1], "chexnode.vocabulary")] == []


def test_encoding_is_pure() -> None:
    """No files, no network, no state: the same inputs give the same bytes."""
    doors = ("socket", "urllib", "http", "subprocess", "threading", "chexnode.spool.spool", "chexnode.settings")
    wrong = [(m.name, door) for m in _of("chexnode.encode") for door in doors if m.uses(door)]
    assert wrong == []


def test_only_settings_reads_the_environment() -> None:
    readers = set()
    for module in _modules().values():
        for node in ast.walk(module.tree):
            attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if attribute and node.attr in {"environ", "environb", "getenv", "putenv"}:
                readers.add(module.name)
        if module.imports & {"os.environ", "os.getenv"}:
            readers.add(module.name)
    assert readers == {"chexnode.settings.loading"}


def test_importing_configures_nothing() -> None:
    """At module level nobody calls into, or assigns into, what another module owns; alembic runs env.py as a script."""
    scripts = {"chexnode.ledger.migrations.env"}
    wrong = []
    for module in _modules().values():
        if module.name in scripts:
            continue
        own = {name.id for node in module.tree.body for name in _bound(node)}
        wrong += [f"{module.name}:{node.lineno}" for node in _statements(module.tree.body) if _reaches_out(node, own)]
    assert wrong == []


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import, those under if, try and with included; ``if __name__ == "__main__"`` is not."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        for field in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = getattr(node, field, [])
                yield from _statements([s for s in inner if isinstance(s, ast.stmt)])
                yield from (s for h in inner if isinstance(h, ast.ExceptHandler) for s in _statements(h.body))


def _bound(node: ast.stmt) -> Iterator[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    yield from (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _reaches_out(node: ast.stmt, own: set[str]) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _root(node.value.func) not in own
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(not isinstance(t, ast.Name | ast.Tuple) and _root(t) not in own for t in targets)
    return False


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_no_import_runs_in_a_circle() -> None:
    """Between rooms, and between the modules of the vocabulary, which name each other."""
    edges: dict[str, set[str]] = {}
    for module in _modules().values():
        here = _node(module.name)
        targets = {_node(name) for name in module.imports if name.split(".")[0] in HOMES}
        edges.setdefault(here, set()).update(targets - {here})
    assert _cycle(edges) is None


def _node(name: str) -> str:
    while name not in _modules():  # an imported function or class: the module that holds it
        name = name.rpartition(".")[0]
    return name if _inside(name, "chexnode.vocabulary") else ".".join(name.split(".")[:2])


def _cycle(edges: Mapping[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return None
        for other in sorted(edges.get(node, ())):
            if found := visit(other, [*trail, node]):
                return found
        done.add(node)
        return None

    return next((found for node in sorted(edges) if (found := visit(node, []))), None)


def test_a_circle_would_be_found() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "a"]


@pytest.mark.parametrize("room", sorted(WITHOUT))
def test_importing_stays_light(room: str) -> None:
    names = [module.name for module in _of(room)]
    assert names
    script = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert set(answer.stdout.split()) & set(WITHOUT[room]) == set()


def test_modules_stay_small() -> None:
    python = [path for path in _tracked() if path.suffix == ".py"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in python}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [m.name for m in _modules().values() if m.tree.body and ast.get_docstring(m.tree) is None]
    assert silent == []


def test_a_public_class_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for module in _modules().values():
        for statement in module.tree.body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                homes.setdefault(statement.name, []).append(module.name)
    assert len(homes) > 400
    # What dimse calls, and what receive hands to it, are the same things.
    same = {"chexnode.dimse.services"}
    assert {name: found for name, found in homes.items() if len(set(found) - same) > 1} == {}


@cache
def _tracked() -> tuple[Path, ...]:
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    names = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return tuple(ROOT / name for name in names if name and (ROOT / name).is_file())


def test_no_path_of_somebodys_machine() -> None:
    path = re.compile(rb"(?<![\w.~*/-])/(work|home|root|Users)/[\w.]")
    wrong = [str(file.relative_to(ROOT)) for file in _tracked() if path.search(file.read_bytes())]
    assert wrong == []


def test_no_package_registry_is_named() -> None:
    """Where packages come from is the installing machine's configuration."""
    hosts = re.compile(rb"(pypi|pythonhosted|npmjs|download\.pytorch)\.org|deb\.debian|(docker|quay|ghcr)\.io")
    own = Path(__file__)
    wrong = [str(file.relative_to(ROOT)) for file in _tracked() if file != own and hosts.search(file.read_bytes())]
    assert wrong == []


def test_no_patient_image_is_kept() -> None:
    """Pictures only as PNG under docs/images, drawn from phantoms; DICOM, JPEG and arrays nowhere."""
    suffixes = {
        ".dcm",
        ".dicom",
        ".jpg",
        ".jpeg",
        ".jp2",
        ".jls",
        ".tif",
        ".tiff",
        ".gif",
        ".bmp",
        ".npy",
        ".npz",
        ".zip",
    }
    starts = (b"\xff\xd8\xff", b"\x89PNG", b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51")
    wrong = []
    for file in _tracked():
        content = file.read_bytes()
        looks = file.suffix.lower() in suffixes or content.startswith(starts) or content[128:132] == b"DICM"
        if looks and not (file.suffix == ".png" and file.is_relative_to(ROOT / "docs" / "images")):
            wrong.append(str(file.relative_to(ROOT)))
    assert wrong == []
