"""The node's settings: one frozen tree, read once by the command that starts and then passed as an argument.

Sources, later ones win: defaults, ``chexnode.toml``, ``CHEXNODE_*`` variables with ``__`` between levels. This is the
only module that reads the environment. Unknown keys are refused with the nearest known name. Relative paths resolve
against the settings file's folder.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chexnode.settings.base import AETitle, Port, Section, network, read_range
from chexnode.settings.destination import DestinationSettings as DestinationSettings
from chexnode.settings.keys import known_keys
from chexnode.settings.web import TlsSettings as TlsSettings
from chexnode.settings.web import WebSettings as WebSettings
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.series import OUR_NAMES, SeriesName, SeriesNames

FILE_NAME = "chexnode.toml"


def _collector(url: str) -> str:
    """Check where audit messages go: ``SCHEME://HOST`` or ``SCHEME://HOST:PORT``, or nothing."""
    parts = urlsplit(url)
    well = parts.scheme in ("udp", "tcp", "tls") and parts.hostname and parts.netloc == url.partition("://")[2]
    if url and (not well or "@" in url or parts.port == 0):
        raise ValueError("an audit collector is udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
    return url


class NodeSettings(Section):
    """Who we are and where we listen."""

    ae_title: AETitle = Field("CHEXNODE", description="Our AE title.")
    host: str = Field("127.0.0.1", description="Address the DICOM listener binds to; opened to the network on purpose.")
    port: Port = Field(11112, description="DICOM port; 0 takes a free one.")
    data_dir: Path = Field(Path("var"), description="The one POSIX folder all roles share.")
    any_called_ae: bool = Field(False, description="Accept associations addressed to another AE title than ours.")


class DatabaseSettings(Section):
    """Where the truth is."""

    url: str = Field(
        "",
        description="sqlite:///FILE or postgresql+psycopg://user:password@host/name; empty: chexnode.db in data_dir.",
    )


class BrokerSettings(Section):
    """The doorbell."""

    url: str = Field("embedded", description="embedded (files under data_dir), redis://... or amqp://...")


class ModelSettings(Section):
    """What analyses the images."""

    bundle: str = Field("chexnomaly", description="Name of a shipped bundle, or the path of a bundle folder.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    operating_point: Literal["second_reader", "triage"] = Field(
        "second_reader", description="Which of the bundle's operating points decides abnormal."
    )


class WorkerSettings(Section):
    """One worker process."""

    batch_size: int = Field(8, ge=1, le=256, description="Images claimed and inferred together.")
    decoders: int = Field(2, ge=1, le=64, description="Sandboxed decoding processes per worker.")
    queues: tuple[Literal["infer", "deliver"], ...] = Field(
        ("infer", "deliver"), min_length=1, description="What this worker does."
    )
    max_attempts: int = Field(5, ge=1, description="Transient failures of one job before it becomes FAILED.")
    max_crashes: int = Field(3, ge=1, description="Times a job may take its worker down before it becomes FAILED.")


class GateSettings(Section):
    """What is analysed."""

    min_age_years: int = Field(0, ge=0, le=150, description="Patients known to be younger are not analysed.")
    modalities: tuple[str, ...] = Field(("CR", "DX", "RG"), min_length=1, description="Modalities that are analysed.")
    secondary_capture: bool = Field(True, description="Analyse single-frame monochrome Secondary Captures.")
    require_view: bool = Field(False, description="Refuse, instead of note, an image without View Position.")
    require_body_part: bool = Field(False, description="Refuse, instead of note, an image without Body Part Examined.")
    child_years: int = Field(16, ge=0, le=150, description="Patients known to be younger are noted on the results.")
    out_of_scope: Literal["refuse", "note"] = Field(
        "refuse",
        description="A picture that is a page of writing: refused, or noted and not evaluated.",
    )
    lexicon: Path | None = Field(None, description="TOML file of a site's own words for views, parts and the like.")


class StudySettings(Section):
    """The study as an aggregate."""

    quiet_seconds: float = Field(30, gt=0, description="A study closes this long after its last image.")


_Number = Annotated[int, Field(ge=0, le=2**31 - 1)]  # IS, PS3.5 section 6.2
_Description = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\\\x00-\x1f\x7f]+$")]


class SeriesSettings(Section):
    """Series Number and Series Description of the results, for worklists and hanging protocols."""

    seg_number: _Number = Field(OUR_NAMES.seg.number, description="Series Number of Segmentations.")
    seg_description: _Description = Field(OUR_NAMES.seg.description, description="Series Description of Segmentations.")
    sr_number: _Number = Field(OUR_NAMES.sr.number, description="Series Number of Structured Reports.")
    sr_description: _Description = Field(
        OUR_NAMES.sr.description, description="Series Description of Structured Reports."
    )
    not_analysed_number: _Number = Field(
        OUR_NAMES.not_analysed.number, description="Series Number of the reports of what was not analysed."
    )
    not_analysed_description: _Description = Field(
        OUR_NAMES.not_analysed.description, description="Series Description of the reports of what was not analysed."
    )
    sc_number: _Number = Field(OUR_NAMES.sc.number, description="Series Number of Secondary Captures.")
    sc_description: _Description = Field(
        OUR_NAMES.sc.description, description="Series Description of Secondary Captures."
    )
    heat_number: _Number = Field(OUR_NAMES.heat.number, description="Series Number of heat maps.")
    heat_description: _Description = Field(OUR_NAMES.heat.description, description="Series Description of heat maps.")
    gsps_number: _Number = Field(OUR_NAMES.gsps.number, description="Series Number of presentation states.")
    gsps_description: _Description = Field(
        OUR_NAMES.gsps.description, description="Series Description of presentation states."
    )

    @property
    def names(self) -> SeriesNames:
        """Number and description of the series of each kind of result, by kind."""
        return SeriesNames(
            **{
                field.name: SeriesName(
                    getattr(self, f"{field.name}_number"), getattr(self, f"{field.name}_description")
                )
                for field in fields(SeriesNames)
            }
        )


class RetentionSettings(Section):
    """How long files are kept."""

    days: float = Field(30, gt=0, description="Files of finished, delivered work are deleted after this many days.")


class DiskSettings(Section):
    """When to refuse new images for lack of space."""

    watermark: float = Field(0.9, gt=0, le=1, description="Refuse while the disk is fuller than this fraction.")
    reserve_gb: float = Field(5, ge=0, description="Refuse while less than this many GB are free.")


class LimitSettings(Section):
    """Bounds on whatever a stranger sends."""

    max_object_mb: int = Field(256, ge=1, description="Largest data set accepted by C-STORE, in MB.")
    max_associations: int = Field(32, ge=1, description="Negotiated associations at once.")
    max_associations_per_address: int = Field(16, ge=1, description="Connections at once from one address.")
    max_elements: int = Field(20_000, ge=100, description="Data elements in one header, items of sequences included.")
    max_nesting: int = Field(64, ge=1, le=400, description="Depth of nested sequences in one header.")
    negotiation_seconds: float = Field(10, gt=0, description="A new connection must have negotiated by then (ARTIM).")
    idle_seconds: float = Field(60, gt=0, description="An association silent for this long is aborted.")
    min_kb_per_second: float = Field(
        10, gt=0, description="A message that falls idle_seconds behind this rate is aborted, however alive its sender."
    )
    inflate_mb: int = Field(512, ge=1, description="Largest inflated size of a deflated data set, in MB.")
    decode_seconds: float = Field(20, gt=0, description="CPU and wall time for decoding one image.")
    decode_memory_mb: int = Field(1536, ge=256, description="Address space one decode may take, in MB.")
    max_pixels: int = Field(64_000_000, ge=4096, description="Rows times Columns of an image that is analysed.")


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5): who sent and got which patient's images, told to a collector by syslog."""

    url: Annotated[str, AfterValidator(_collector)] = Field(
        "", description="udp://HOST:514, tcp://HOST:514 or tls://HOST:6514 (by the section tls); empty: no audit trail."
    )
    enterprise_site_id: str = Field("", description="Audit Enterprise Site ID: how the collector tells sites apart.")
    spool_limit: int = Field(
        100_000, ge=1, description="Messages kept while the collector is away; beyond that the oldest are dropped."
    )


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Hosts = Annotated[tuple[Annotated[str, AfterValidator(network)], ...], BeforeValidator(_listed), Field(min_length=1)]


class PeerSettings(Section):
    """Who may call."""

    ae_title: AETitle = Field(description="Calling AE title; a `*` at its end: any rest; alone: any title.")
    host: Hosts = Field(description="Address, CIDR block, range (10.1.2.3-10.1.2.9) or host it calls from, or a list.")
    port: Port | None = Field(None, description="Where it listens, for answers to its storage commitment requests.")
    tls: bool = Field(False, description="Speak TLS to it there.")

    @model_validator(mode="after")
    def _can_be_called(self) -> PeerSettings:
        if self.port is not None and (self.ae_title.endswith("*") or "/" in self.host[0] or read_range(self.host[0])):
            raise ValueError("a peer with a port needs its whole AE title, and the host to call first in its list")
        return self


class Settings(BaseSettings):
    """The whole tree. Build it with :func:`load`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="CHEXNODE_", env_nested_delimiter="__", validate_default=True
    )

    node: NodeSettings = NodeSettings()
    web: WebSettings = WebSettings()
    tls: TlsSettings = TlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    model: ModelSettings = ModelSettings()
    worker: WorkerSettings = WorkerSettings()
    gate: GateSettings = GateSettings()
    study: StudySettings = StudySettings()
    series: SeriesSettings = SeriesSettings()
    retention: RetentionSettings = RetentionSettings()
    disk: DiskSettings = DiskSettings()
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings = AuditSettings()
    peer: tuple[PeerSettings, ...] = ()
    destination: tuple[DestinationSettings, ...] = ()

    @property
    def viewer_home(self) -> Path:
        """Folder that holds the viewer, whichever releases of it."""
        return self.web.viewer or self.node.data_dir / "viewer"

    @property
    def web_url(self) -> str:
        """What to call the web role by, as well as can be told from here."""
        host = self.web.names[0] if self.web.names else self.web.host
        if host in ("0.0.0.0", "::"):  # noqa: S104  (told from, not bound to)
            host = "localhost"
        return f"{'https' if self.tls.web else 'http'}://{f'[{host}]' if ':' in host else host}:{self.web.port}"

    @model_validator(mode="after")
    def _names(self) -> Settings:
        names = [d.name for d in self.destination]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"destination names must differ: {', '.join(sorted(twice))}")
        wanted = [*(one.tls for one in self.destination), *(one.tls for one in self.peer)]
        if any(wanted) and self.tls.authorities is None:
            raise ValueError("a destination or peer with tls needs tls.authorities, which sign its certificate")
        if self.audit.url.startswith("tls://") and self.tls.authorities is None:
            raise ValueError("an audit collector with TLS needs tls.authorities, which sign its certificate")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file (the file's content comes as init arguments)."""
        return env_settings, init_settings


def load(path: Path | None = None) -> tuple[Settings, Path | None]:
    """Read the settings; return them with the file they came from.

    ``path``: the settings file; None looks at ``CHEXNODE_CONFIG`` and then for ``chexnode.toml`` in the working folder.
    Raises :class:`~chexnode.vocabulary.errors.Usage` with one line per fault.
    """
    if path is None and os.environ.get("CHEXNODE_CONFIG"):
        path = Path(os.environ["CHEXNODE_CONFIG"])
    if path is None and Path(FILE_NAME).is_file():
        path = Path(FILE_NAME)
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Usage(f"{path}: {error}") from error
    faults = list(_unknown_variables(os.environ))
    if faults:
        raise Usage("\n".join(faults))
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise Usage("\n".join(_sentences(error, path))) from error
    except ValueError as error:  # pydantic-settings: a variable that should hold JSON does not
        raise Usage(str(error)) from error
    base = path.parent if path is not None else Path(".")
    return _resolved(settings, base.absolute()), path


def _resolved(settings: Settings, base: Path) -> Settings:
    """Make every path absolute against ``base``."""
    url = settings.database.url
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////") and url != "sqlite:///:memory:":
        url = "sqlite:///" + str(base / url.removeprefix("sqlite:///"))
    bundle = settings.model.bundle
    if "/" in bundle or bundle.startswith("."):
        bundle = str((base / Path(bundle).expanduser()).resolve())
    data_dir = base / settings.node.data_dir.expanduser()
    url = url or f"sqlite:///{data_dir / 'chexnode.db'}"
    return settings.model_copy(
        update={
            "node": settings.node.model_copy(update={"data_dir": data_dir}),
            "web": settings.web.model_copy(
                update={"viewer": settings.web.viewer and base / settings.web.viewer.expanduser()}
            ),
            "database": settings.database.model_copy(update={"url": url}),
            "model": settings.model.model_copy(update={"bundle": bundle}),
            "tls": settings.tls.model_copy(
                update={
                    key: base / path.expanduser()
                    for key in ("certificate", "key", "authorities")
                    if (path := getattr(settings.tls, key)) is not None
                }
            ),
            "destination": tuple(
                d.model_copy(
                    update={
                        key: base / path.expanduser()
                        for key in ("path", "token_file", "password_file")
                        if (path := getattr(d, key)) is not None
                    }
                )
                for d in settings.destination
            ),
        }
    )


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """pydantic-settings passes over variables it does not know; we do not."""
    known = {"CHEXNODE_CONFIG", "CHEXNODE_SHARED"}
    known |= {"CHEXNODE_" + key.replace(".", "__").upper() for key in known_keys(Settings)}
    known |= {"CHEXNODE_" + name.upper() for name in Settings.model_fields}
    for name in sorted(environ):
        if name.upper().startswith("CHEXNODE_") and name.upper() not in known:
            yield f"unknown variable {name}{_nearest(name.upper(), known)}"


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _sentences(error: ValidationError, path: Path | None) -> Iterator[str]:
    """One line a fault, with the nearest known key for an unknown one."""
    known = set(known_keys(Settings)) | set(Settings.model_fields)
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int)) or "settings"
        source = f"{path}: " if path else ""
        if fault["type"] == "extra_forbidden":
            yield f"{source}unknown key {where}{_nearest(where, known)}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{source}{where}: {message}"


def source_of(key: str, path: Path | None) -> str:
    """Say where the value of dotted ``key`` came from: ``default``, the file, or the variable."""
    environ = {name.upper() for name in os.environ}
    head = key.split("[")[0].split(".")
    for depth in range(len(head), 0, -1):
        variable = "CHEXNODE_" + "__".join(head[:depth]).upper()
        if variable in environ:
            return variable
    if path is not None:
        node: Any = tomllib.loads(path.read_text("utf-8"))
        for part in key.replace("[", ".").replace("]", "").split("."):
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, TypeError):
                return "default"
        return str(path)
    return "default"
