"""Section ``node``: who we are and where we listen."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chexnode.settings.base import AETitle, Port, Section


class NodeSettings(Section):
    """Who we are and where we listen."""

    ae_title: AETitle = Field("CHEXNODE", description="Our AE title.")
    host: str = Field("127.0.0.1", description="Address the DICOM listener binds to; opened to the network on purpose.")
    port: Port = Field(11112, description="DICOM port; 0 takes a free one.")
    data_dir: Path = Field(Path("var"), description="The one POSIX folder all roles share.")
    any_called_ae: bool = Field(False, description="Accept associations addressed to another AE title than ours.")
