"""Where results go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from chexnode.settings.base import AETitle, Section
from chexnode.vocabulary.variants import ScEncoding, SegProfile, SrClass, SrOutline

_ONLY: Mapping[str, tuple[str, ...]] = {
    "dicom": ("ae_title", "host", "port", "tls", "tls_name", "storage_commitment", "retrieve"),
    "stow": ("url", "token", "token_file", "user", "password", "password_file"),
    "folder": ("path",),
}
"""Keys that one kind of destination acts on and no other."""


_CREDENTIALS = frozenset({"token", "token_file", "user", "password", "password_file"})


def _service(value: str) -> str:
    """Check the base URL of a DICOMweb service (PS3.18 section 8.2): credentials have keys of their own."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the URL of a DICOMweb service is such as https://pacs.example/dicom-web")
    if "@" in parts.netloc:
        raise ValueError("name the user by the keys user and password_file, not in the URL")
    return value.rstrip("/")


class DestinationSettings(Section):
    """Where results go."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Name in tables, commands and metrics.")
    kind: Literal["dicom", "stow", "folder"] = Field("dicom", description="dicom (C-STORE), stow (STOW-RS) or folder.")
    ae_title: AETitle | None = Field(None, description="Called AE title (dicom).")
    host: str | None = Field(None, description="Host (dicom).")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="Port (dicom).")
    tls: bool = Field(False, description="Speak TLS to it (dicom), by what the section tls says.")
    tls_name: str | None = Field(None, description="Host name or address in its certificate; none: host.")
    url: Annotated[str, AfterValidator(_service)] | None = Field(
        None, description="Base URL of the DICOMweb service (stow); https by what the section tls says."
    )
    token: SecretStr | None = Field(None, description="Bearer token (stow); better token_file.")
    token_file: Path | None = Field(None, description="File that holds the bearer token (stow).")
    user: str | None = Field(None, pattern=r"^[^:\x00-\x1f\x7f]+$", description="User of basic authentication (stow).")
    password: SecretStr | None = Field(None, description="Password of user (stow); better password_file.")
    password_file: Path | None = Field(None, description="File that holds the password of user (stow).")
    path: Path | None = Field(None, description="Folder that takes the files (folder).")
    results: tuple[Literal["seg", "sc", "sr", "gsps"], ...] = Field(
        ("seg", "sc", "sr"),
        description="Objects sent here, for each analysed image; none: it is only asked, by `pull` and `reconcile`.",
    )
    seg_profile: SegProfile = Field("planar", description="SEG plane groups, by viewer.")
    sc_encoding: ScEncoding = Field("rgb", description="Secondary Capture as native RGB or JPEG Baseline.")
    sr_class: SrClass = Field(
        "comprehensive3d", description="SR as Comprehensive 3D SR, or as Comprehensive SR for older archives."
    )
    sr_outline: SrOutline = Field("box", description="Regions in the SR as boxes or as contours.")
    heat_map: bool = Field(False, description="Also send the heat map, as a second Secondary Capture.")
    not_analysed: bool = Field(
        False, description="Also send, when a study closes, a Structured Report of what was not analysed and why."
    )
    label: str = Field(
        "",
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9 ._-]{0,10}[A-Za-z0-9])?)?$",
        description="Begins the Series Description of what is sent here, such as RESEARCH; at most 12 characters.",
    )
    withdraw: Literal["iocm", "dcm4chee-reject", "delete", "none"] = Field(
        "iocm",
        description="How results that are valid no longer are withdrawn from it: by an IHE IOCM rejection note, by "
        "dcm4chee's reject service, by deletion, or not at all.",
    )
    withdraw_url: Annotated[str, AfterValidator(_service)] | None = Field(
        None,
        description="Where it is asked to withdraw (dcm4chee-reject, delete): base URL of its DICOMweb service, or of "
        "Orthanc's own interface where withdraw_by_orthanc is on; none: url.",
    )
    withdraw_by_orthanc: bool = Field(False, description="Delete by Orthanc's own interface (delete).")
    peers: tuple[AETitle, ...] = Field((), description="Only images from these callers; empty: all.")
    send: Literal["always", "abnormal"] = Field("always", description="Everything, or only images with a finding.")
    storage_commitment: bool = Field(False, description="Delivered is what it has committed to (dicom).")
    retrieve: Literal["move", "get"] = Field(
        "move", description="How `reconcile --fetch` has it send images: C-MOVE to our AE title, or C-GET (dicom)."
    )
    max_associations: int = Field(2, ge=1, le=64, description="Associations, or connections, at once to it.")
    max_age_hours: float = Field(72, gt=0, description="A delivery older than this is given up and becomes DEAD.")
    timeout_seconds: float = Field(30, gt=0, description="Longest wait for the destination's answer to one message.")

    @property
    def address(self) -> str:
        """Host that it is at; empty for a folder."""
        return self.host or (urlsplit(self.url).hostname if self.url else None) or ""

    @property
    def speaks_tls(self) -> bool:
        """Whether connections to it are TLS."""
        return self.tls or any((url or "").startswith("https:") for url in (self.url, self.withdraw_url))

    @model_validator(mode="after")
    def _withdrawable(self) -> DestinationSettings:
        by_web = self.withdraw == "dcm4chee-reject" or (self.withdraw == "delete" and self.kind != "folder")
        if self.withdraw == "dcm4chee-reject" and self.kind == "folder":
            raise ValueError(f"destination {self.name!r} is a folder: it is no dcm4chee")
        if by_web and not (self.withdraw_url or self.url):
            raise ValueError(f"destination {self.name!r} needs withdraw_url for withdraw = {self.withdraw!r}")
        if self.withdraw_url is not None and not by_web:
            raise ValueError(f"destination {self.name!r} has withdraw_url, but withdraws by {self.withdraw!r}")
        if self.withdraw_by_orthanc and not (self.withdraw == "delete" and self.withdraw_url):
            raise ValueError(f"destination {self.name!r} has withdraw_by_orthanc, which deletes at withdraw_url")
        return self

    @model_validator(mode="after")
    def _complete(self) -> DestinationSettings:
        what = f"destination {self.name!r} of kind {self.kind!r}"
        needed = {"dicom": ("ae_title", "host", "port"), "stow": ("url",), "folder": ("path",)}[self.kind]
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{what} needs {', '.join(missing)}")
        if self.storage_commitment and self.kind != "dicom":
            raise ValueError(f"{what} offers no storage commitment")
        others = {key for kind, keys in _ONLY.items() if kind != self.kind for key in keys}
        if self.withdraw_url is not None:
            others -= _CREDENTIALS
        foreign = sorted(key for key in others & self.model_fields_set if getattr(self, key) not in (None, False))
        if foreign:
            raise ValueError(f"{what} has no {', '.join(foreign)}")
        return self

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> DestinationSettings:
        secrets = [
            key for key in ("token", "token_file", "password", "password_file") if getattr(self, key) is not None
        ]
        if len(secrets) > 1:
            raise ValueError(f"destination {self.name!r} has {' and '.join(secrets)}: give one")
        if (self.user is not None) != (secrets in (["password"], ["password_file"])):
            raise ValueError(f"destination {self.name!r} needs user and password_file together")
        return self

    @property
    def is_only_asked(self) -> bool:
        """Whether nothing is ever sent to it."""
        return not (self.results or self.heat_map or self.not_analysed)

    @model_validator(mode="after")
    def _acted_on(self) -> DestinationSettings:
        """Refuse the form of an object that is not sent: it would be silently ignored."""
        if self.is_only_asked and self.kind == "folder":
            raise ValueError(f"destination {self.name!r} is a folder that gets nothing")
        report = self.not_analysed or "sr" in self.results
        for key, is_sent, wanted in (
            ("seg_profile", "seg" in self.results, "results has no seg"),
            ("sc_encoding", "sc" in self.results or self.heat_map, "results has no sc, and heat_map is false"),
            ("sr_class", report, "results has no sr, and not_analysed is false"),
            ("sr_outline", "sr" in self.results, "results has no sr"),
        ):
            if key in self.model_fields_set and not is_sent:
                raise ValueError(f"destination {self.name!r} has {key}, but its {wanted}")
        return self
