"""The preamble and file meta information in front of a stored data set (PS3.10 section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

from chexmodels.dicom.file_meta import prefix
from chexnode.dimse.pdus import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


@dataclass(frozen=True, slots=True)
class Announced:
    """What a sender says of a data set before it comes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str = ""
    """Of the study it must belong to; empty: any."""


def file_prefix(announced: Announced, calling_ae_title: str) -> bytes:
    """Preamble and file meta information of what is stored as it comes."""
    return prefix(
        (
            (0x0002, "UI", announced.sop_class_uid),
            (0x0003, "UI", announced.sop_instance_uid),
            (0x0010, "UI", announced.transfer_syntax_uid),
            (0x0012, "UI", IMPLEMENTATION_CLASS_UID),
            (0x0013, "SH", IMPLEMENTATION_VERSION_NAME),
            (0x0016, "AE", calling_ae_title),
        )
    )
