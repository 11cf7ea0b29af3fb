"""The node's settings: one frozen tree, made once by the command that starts and then passed as an argument.

Sources, later ones win: defaults, ``chexnode.toml``, ``CHEXNODE_*`` variables with ``__`` between levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import PrivateAttr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chexnode.settings.alarms import AlarmSettings
from chexnode.settings.audit import AuditSettings
from chexnode.settings.broker import BrokerSettings
from chexnode.settings.database import DatabaseSettings
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.disk import DiskSettings
from chexnode.settings.drift import DriftSettings
from chexnode.settings.gate import GateSettings
from chexnode.settings.limits import LimitSettings
from chexnode.settings.model import ModelSettings
from chexnode.settings.node import NodeSettings
from chexnode.settings.oidc import OidcSettings
from chexnode.settings.peer import PeerSettings
from chexnode.settings.reanalysis import ReanalysisSettings
from chexnode.settings.retention import RetentionSettings
from chexnode.settings.rule import RuleSettings
from chexnode.settings.series import SeriesSettings
from chexnode.settings.study import StudySettings
from chexnode.settings.tls import TlsSettings
from chexnode.settings.web import WebSettings
from chexnode.settings.webhook import WebhookSettings
from chexnode.settings.worker import WorkerSettings
from chexnode.vocabulary.errors import Usage


class Settings(BaseSettings):
    """The whole tree; :func:`chexnode.settings.loading.load` makes it from a file and the environment."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="CHEXNODE_", env_nested_delimiter="__", validate_default=True
    )

    node: NodeSettings = NodeSettings()
    web: WebSettings = WebSettings()
    oidc: OidcSettings = OidcSettings()
    tls: TlsSettings = TlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    model: ModelSettings = ModelSettings()
    shadow: tuple[ModelSettings, ...] = ()
    worker: WorkerSettings = WorkerSettings()
    reanalysis: ReanalysisSettings = ReanalysisSettings()
    gate: GateSettings = GateSettings()
    study: StudySettings = StudySettings()
    series: SeriesSettings = SeriesSettings()
    retention: RetentionSettings = RetentionSettings()
    disk: DiskSettings = DiskSettings()
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings = AuditSettings()
    alarms: AlarmSettings = AlarmSettings()
    drift: DriftSettings = DriftSettings()
    peer: tuple[PeerSettings, ...] = ()
    destination: tuple[DestinationSettings, ...] = ()
    rule: tuple[RuleSettings, ...] = ()
    webhook: tuple[WebhookSettings, ...] = ()

    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def note_sources(self, sources: Mapping[str, str]) -> None:
        """Keep where each value came from; for whoever has just read them."""
        self._sources = sources

    def source_of(self, key: str) -> str:
        """Where the value of dotted ``key`` came from when it was read: ``default``, a file, or a variable."""
        return self._sources.get(key, "default")

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

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """All models, that which delivers first."""
        return (self.model, *self.shadow)

    def destination_called(self, name: str, kind: str | None = None) -> DestinationSettings:
        """The destination of that name, and of that ``kind`` where one is given. Raises Usage if there is none."""
        for one in self.destination:
            if one.name == name and kind in (None, one.kind):
                return one
        raise Usage(f"no destination {f'of kind {kind} ' if kind else ''}is called {name!r}")

    @model_validator(mode="after")
    def _models(self) -> Settings:
        if self.model.mode != "deliver" or any(one.mode != "shadow" for one in self.shadow):
            raise ValueError("model: exactly one has mode deliver")
        if self.model.peers or self.model.rules:
            raise ValueError("model: peers and rules are for models with mode shadow")
        names = [one.name for one in self.models]
        if len(set(names)) < len(names):
            raise ValueError("model: names must differ")
        for one in self.shadow:
            if unknown := set(one.rules) - {rule.name for rule in self.rule}:
                raise ValueError(f"model {one.name!r}: no rule is called {', '.join(sorted(unknown))}")
        return self

    @model_validator(mode="after")
    def _names(self) -> Settings:
        names = [d.name for d in self.destination]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"destination names must differ: {', '.join(sorted(twice))}")
        rules = [rule.name for rule in self.rule]
        if len(set(rules)) < len(rules):
            raise ValueError("rule names must differ")
        if len({one.name for one in self.webhook}) < len(self.webhook):
            raise ValueError("webhook names must differ")
        for rule in self.rule:
            unknown = set(rule.destinations or ()) - set(names)
            if unknown:
                raise ValueError(f"rule {rule.name!r}: no destination is called {', '.join(sorted(unknown))}")
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
