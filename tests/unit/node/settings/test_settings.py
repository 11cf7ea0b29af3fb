"""Settings: where they come from, what is refused and how it is told, and what is shown."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from chexnode.settings.keys import flat, known_keys, masked
from chexnode.settings.loading import load
from chexnode.settings.reanalysis import ReanalysisSettings
from chexnode.settings.tree import Settings
from chexnode.vocabulary.errors import Usage

DESIGN_KEYS = [
    "node.ae_title", "node.host", "node.port", "node.data_dir", "node.any_called_ae", "web.host", "web.port",
    "database.url", "broker.url", "model.bundle", "model.device", "model.operating_point", "worker.batch_size",
    "worker.decoders", "worker.queues", "gate.min_age_years", "study.quiet_seconds", "retention.days", "disk.watermark",
    "disk.reserve_gb", "limits.max_object_mb", "peer.ae_title", "peer.host", "peer.port", "destination.name",
    "destination.kind", "destination.ae_title", "destination.host", "destination.port", "destination.results",
    "destination.seg_profile", "destination.sc_encoding", "destination.sr_class", "destination.sr_outline",
    "destination.heat_map", "destination.peers", "destination.send", "destination.storage_commitment",
    "destination.max_associations", "destination.max_age_hours",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "chexnode.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_defaults_are_closed() -> None:
    settings, path = load()
    assert path is None
    assert settings.node.host == settings.web.host == "127.0.0.1"
    assert (settings.peer, settings.destination, settings.node.any_called_ae) == ((), (), False)


@pytest.mark.parametrize("key", DESIGN_KEYS)
def test_every_designed_key_exists(key: str) -> None:
    assert key in set(known_keys(Settings))


def test_the_file_in_the_working_folder_is_found() -> None:
    path = written('[node]\nae_title = "HERE"\n')
    settings, found = load()
    assert (settings.node.ae_title, found) == ("HERE", path)


def test_a_named_file_comes_before_the_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    written('[node]\nae_title = "HERE"\n')
    named = written('[node]\nae_title = "NAMED"\n', "a/named.toml")
    varied = written('[node]\nae_title = "VARIED"\n', "b/varied.toml")
    monkeypatch.setenv("CHEXNODE_CONFIG", str(varied))
    assert load()[0].node.ae_title == "VARIED"
    assert load(named)[0].node.ae_title == "NAMED"


def test_a_variable_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written('[node]\nport = 1000\nae_title = "FILE"\n')
    monkeypatch.setenv("CHEXNODE_NODE__PORT", "2000")
    monkeypatch.setenv("CHEXNODE_DESTINATION", '[{"name": "x", "kind": "folder", "path": "out"}]')
    settings, _ = load()
    assert (settings.node.port, settings.node.ae_title) == (2000, "FILE")
    assert settings.destination[0].name == "x"
    assert settings.source_of("node.port") == "CHEXNODE_NODE__PORT"
    assert settings.source_of("destination[0].name") == "CHEXNODE_DESTINATION"
    assert settings.source_of("node.ae_title") == str(path)
    assert settings.source_of("node.host") == "default"


def test_the_source_of_a_list_entry() -> None:
    path = written('[[destination]]\nname = "x"\nkind = "folder"\npath = "out"\n')
    settings, _ = load()
    path.write_text("")  # what counts is what was read
    assert settings.source_of("destination[0].name") == str(path)
    assert settings.source_of("destination[0].send") == "default"
    assert settings.source_of("destination[1].send") == "default"


def test_relative_paths_are_the_files_not_the_working_folders() -> None:
    path = written(
        '[node]\ndata_dir = "data"\n[database]\nurl = "sqlite:///data/x.db"\n[model]\nbundle = "../models/mine"\n'
        '[[destination]]\nname = "f"\nkind = "folder"\npath = "out"\n',
        "etc/node/chexnode.toml",
    )
    base = Path.cwd() / "etc" / "node"
    settings, _ = load(path)
    assert settings.node.data_dir == base / "data"
    assert settings.database.url == f"sqlite:///{base}/data/x.db"
    assert settings.model.bundle == str(Path.cwd() / "etc" / "models" / "mine")
    assert settings.destination[0].path == base / "out"


def test_absolute_paths_and_shipped_names_stay() -> None:
    settings, _ = load(
        written('[node]\ndata_dir = "/srv/x"\n[database]\nurl = "sqlite:////srv/x.db"\n[model]\nbundle = "phantom64"\n')
    )
    assert str(settings.node.data_dir) == "/srv/x"
    assert settings.database.url == "sqlite:////srv/x.db"
    assert settings.model.bundle == "phantom64"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[node]\nae_titel = 'X'\n", "unknown key node.ae_titel; did you mean node.ae_title?"),
        ("[nodes]\nport = 1\n", "unknown key nodes; did you mean node?"),
        ("[[destination]]\nname='x'\nhots='h'\n", "unknown key destination.hots; did you mean destination.host?"),
        ("[node]\nport = 70000\n", "node.port: "),
        ("[node]\nae_title = 'SEVENTEEN LETTERS'\n", "node.ae_title: an AE title is 1 to 16 printable ASCII"),
        ("[node]\nae_title = 'A\\\\B'\n", "node.ae_title: an AE title"),
        ("[node]\nae_title = '   '\n", "node.ae_title: an AE title"),
        ("[web]\ncors_origins = ['*']\n", "web.cors_origins: '*' is no origin"),
        ("[web]\ncors_origins = ['https://viewer.example/']\n", "web.cors_origins: 'https://viewer.example/' is no"),
        ("[model]\ndevice = 'gpu'\n", "model.device: "),
        ("[[destination]]\nname='x'\n", "destination 'x' of kind 'dicom' needs ae_title, host, port"),
        ("[[destination]]\nname='x'\nkind='folder'\n", "needs path"),
        (
            "[[destination]]\nname='x'\nkind='folder'\npath='o'\nresults=['sc']\nsr_class='comprehensive'\n",
            "destination 'x' has sr_class, but its results has no sr, and not_analysed is false",
        ),
        ("[[destination]]\nname='x'\nkind='folder'\npath='o'\nlabel='THIRTEEN LONG'\n", "destination.label: "),
        ("[[destination]]\nname='x'\nkind='folder'\npath='o'\nlabel='A@B'\n", "destination.label: "),
        ("[series]\nseg_number = -1\n", "series.seg_number: "),
        ("[series]\nseg_description = 'A\\B'\n", "series.seg_description: "),
        ("[[destination]]\nname='a b'\nkind='folder'\npath='o'\n", "destination.name: "),
        (
            "[[destination]]\nname='x'\nkind='folder'\npath='o'\n[[destination]]\nname='x'\nkind='folder'\npath='p'\n",
            "destination names must differ: x",
        ),
        ("[[peer]]\nae_title='A'\nhost='10.0.0.0/33'\n", "peer.host: "),
        ("[node\n", "chexnode.toml: "),
    ],
)
def test_a_fault_is_one_clear_line(text: str, told: str) -> None:
    with pytest.raises(Usage) as caught:
        load(written(text))
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("chexnode.toml: ")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(Usage) as caught:
        load(written("[node]\nport = -1\nhots = 'x'\n"))
    assert len(str(caught.value).splitlines()) == 2


STOW = '[[destination]]\nname = "x"\nkind = "stow"\n'


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("", "needs url"),
        ('url = "https://pacs/dicom-web"\nhost = "pacs"', "has no host"),
        ('url = "https://pacs/dicom-web"\ntls = true', "has no tls"),
        ('url = "https://me:secret@pacs/dicom-web"', "by the keys user and password_file"),
        ('url = "ftp://pacs"', "such as https"),
        ('url = "https://pacs"\nstorage_commitment = true', "no storage commitment"),
        ('url = "https://pacs"\ntoken = "a"\ntoken_file = "b"', "token and token_file: give one"),
        ('url = "https://pacs"\nuser = "me"', "user and password_file together"),
        ('url = "https://pacs"\npassword_file = "b"', "user and password_file together"),
        ('url = "https://pacs"\nuser = "me"\ntoken = "a"', "user and password_file together"),
    ],
)
def test_a_stow_destination_that_cannot_work_is_refused(lines: str, fault: str) -> None:
    with pytest.raises(Usage, match=fault) as caught:
        load(written(STOW + lines + "\n"))
    assert "secret" not in str(caught.value)


def test_secrets_are_shown_by_nobody() -> None:
    settings, _ = load(written(STOW + 'url = "https://pacs/dicom-web/"\nuser = "me"\npassword = "hunter2"\n'))
    assert settings.destination[0].url == "https://pacs/dicom-web"
    assert dict(flat(settings))["destination[0].password"] == "**********"
    assert "hunter2" not in repr(settings)
    settings, _ = load(written(STOW + 'url = "https://pacs"\ntoken_file = "tokens/pacs"\n', "a/node.toml"))
    assert settings.destination[0].token_file == Path("a/tokens/pacs").absolute()


def test_a_folder_promises_nothing() -> None:
    with pytest.raises(Usage, match="offers no storage commitment"):
        load(written('[[destination]]\nname="x"\nkind="folder"\npath="out"\nstorage_commitment=true\n'))


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEXNODE_NODE__AETITLE", "X")
    with pytest.raises(Usage, match="unknown variable CHEXNODE_NODE__AETITLE; did you mean CHEXNODE_NODE__AE_TITLE"):
        load()


def test_a_variable_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEXNODE_DESTINATION", "pacs")
    with pytest.raises(Usage, match="destination"):
        load()


def test_a_missing_file() -> None:
    with pytest.raises(Usage, match="nowhere"):
        load(Path("nowhere.toml"))


def test_settings_cannot_change() -> None:
    settings, _ = load()
    with pytest.raises(ValidationError):
        settings.node.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.node = settings.node  # type: ignore[misc]


def test_secrets_are_masked() -> None:
    settings, _ = load(
        written(
            '[database]\nurl = "postgresql+psycopg://me:hunter2@db:5432/x"\n[broker]\nurl = "redis://:hunter2@h:1/0"\n'
        )
    )
    shown = dict(flat(settings))
    assert shown["database.url"] == "postgresql+psycopg://me:***@db:5432/x"
    assert shown["broker.url"] == "redis://:***@h:1/0"
    assert "hunter2" not in str(list(flat(settings)))
    assert settings.database.url.count("hunter2") == 1
    assert masked("sqlite:///x.db") == "sqlite:///x.db"
    assert masked("postgresql://h/db?user=u&password=p%20w&sslmode=require") == (
        "postgresql://h/db?user=u&password=***&sslmode=require"
    )
    assert masked("rediss://:s@h/0?ssl_keyfile=k&x=1") == "rediss://:***@h/0?ssl_keyfile=***&x=1"


def test_every_setting_is_shown() -> None:
    settings, _ = load(written('[[destination]]\nname = "f"\nkind = "folder"\npath = "out"\n'))
    shown = [key for key, _ in flat(settings)]
    assert len(shown) == len(set(shown))
    plain = {key.replace("[0]", "") for key in shown}
    lists = {key for key in known_keys(Settings) if key.startswith(("peer.", "rule.", "shadow.", "webhook."))}
    assert set(known_keys(Settings)) - plain == lists
    assert {"peer", "rule"} <= plain


def test_every_setting_has_a_description() -> None:
    def check(model: type) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = getattr(field.annotation, "model_fields", None)
            if inner is not None:
                check(field.annotation)
            elif model is not Settings:
                assert field.description, f"{model.__name__}.{name}"

    check(Settings)


def test_every_path_is_taken_from_the_files_folder() -> None:
    path = written(
        '[gate]\nlexicon = "words.toml"\n[tls]\nauthorities = "ca.pem"\n[web]\nviewer = "ohif"\n', "a/node.toml"
    )
    settings, _ = load(path)
    found = (settings.gate.lexicon, settings.tls.authorities, settings.web.viewer)
    assert found == tuple(path.parent.absolute() / name for name in ("words.toml", "ca.pem", "ohif"))


MODELS = """
[[model]]
name = "trial"
bundle = "models/new"
mode = "shadow"
peers = ["ROOM1"]
[[model]]
name = "main"
device = "cpu"
"""


def test_of_a_list_of_models_one_delivers_and_the_others_are_on_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEXNODE_MODEL__OPERATING_POINT", "triage")
    path = written(MODELS, "a/chexnode.toml")
    settings, _ = load(path)
    assert [one.name for one in settings.models] == ["main", "trial"]
    assert (settings.model.device, settings.model.operating_point) == ("cpu", "triage")
    assert settings.shadow[0].bundle == str(Path("a/models/new").resolve())
    assert settings.source_of("model.device") == settings.source_of("shadow[0].peers") == str(path)
    assert settings.source_of("shadow[0].device") == "default"


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ('[[model]]\nname = "a"\n[[model]]\nname = "b"\n', "exactly one"),
        ('[[model]]\nmode = "shadow"\n', "exactly one"),
        ('[[model]]\n[[model]]\nmode = "shadow"\n', "names must differ"),
        ('[[model]]\npeers = ["A"]\n', "are for models with mode shadow"),
        ('[[model]]\n[[model]]\nname = "b"\nmode = "shadow"\nrules = ["none"]\n', "no rule is called none"),
        ('[model]\nmode = "shadow"\n', "exactly one"),
        ('[[model]]\nmood = "shadow"\n', "unknown key model.mood"),
        ('[reanalysis]\nhours = "20-6"\n', "no span of the day"),
        ('[reanalysis]\nhours = "06:00-06:00"\n', "begins when it ends"),
    ],
)
def test_what_no_models_or_hours_can_be_is_refused(models: str, why: str) -> None:
    with pytest.raises(Usage, match=why):
        load(written(models))


def test_hours_may_pass_midnight() -> None:
    night, noon = ReanalysisSettings(hours="20:00-06:00"), ReanalysisSettings(hours="11:00-13:00")
    at = {hour: datetime(2030, 1, 2, hour, 30).astimezone() for hour in (5, 12, 13, 21)}
    assert [hour for hour, moment in at.items() if night.are_open(moment)] == [5, 21]
    assert [hour for hour, moment in at.items() if noon.are_open(moment)] == [12]
    assert ReanalysisSettings().are_open(at[12])
