"""The layers that look at a stranger's bytes, one by one and without sockets: what each may answer, and nothing else.

A function here raises what no layer may raise; the caller has found something then.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chexmodels.dicom.errors import DecodeError
from chexmodels.dicom.part10 import Part10 as Part10File
from chexmodels.dicom.part10 import ReadLimits, read, read_intact
from chexmodels.dicom.transfer_syntaxes import DEFLATED
from chexnode.dimse.commitment import MAX_ELEMENTS
from chexnode.dimse.contexts import accept
from chexnode.dimse.datasets import NotADataSet, decode
from chexnode.dimse.messages import CommandError, Status, read_command, write_response
from chexnode.dimse.pdus import LOCAL_LIMIT as ANY_REJECTION
from chexnode.dimse.pdus import PduError, read_associate_ac, read_associate_rq, read_titles, write_associate_rj
from chexnode.encode.source import sanitise
from chexnode.receive.filemeta import Announced, file_prefix
from chexnode.receive.header import NotUnderstood, read_header
from chexnode.settings.gate import GateSettings
from chexnode.settings.limits import LimitSettings
from chexnode.triage.gate import triage_header
from chexnode.vocabulary.errors import Refused
from chexnode.work.sandbox import Sandbox
from fuzz.cases import Case
from support.senders import IMPLICIT_VR, Part10
from support.senders import read_command as read_response

LIMITS = LimitSettings(inflate_mb=8)
READ_LIMITS = ReadLimits(inflate_bytes=8_000_000)
SECONDS = 5.0
"""Of CPU time that no case may take in all layers together; the usual is a few milliseconds."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise where what runs inside takes more CPU time than any bytes may cost."""
    started = time.thread_time()
    yield
    taken = time.thread_time() - started
    if taken > SECONDS:
        raise AssertionError(f"took {taken:.1f} s of CPU time")


def check(case: Case) -> None:
    """Run ``case`` through the layers it is for; a Store request is for a whole service."""
    with in_time():
        if case.part is not None:
            check_data_set(case.part)
        elif case.body is None:
            check_conversation(case.said)


def check_data_set(part: Part10) -> None:
    """Read a data set as the receiver does, and as the sandbox and the reports do: both must agree."""
    whole = _received(part)
    content = _file(part)
    with suppress(DecodeError):
        sanitise(read_intact(content, READ_LIMITS))
    found = _read(content)
    if isinstance(found, DecodeError):
        assert found.detail.isprintable()
        assert whole is not True, f"only the receiver can read it: {found}"
        return
    with suppress(DecodeError):
        source = sanitise(found.header)
        assert source.ds.StudyInstanceUID


def _read(content: bytes) -> Part10File | DecodeError:
    try:
        return read(content, READ_LIMITS)
    except DecodeError as error:
        return error


def _received(part: Part10) -> bool | None:
    """Whether the receiver finds a whole data set; None where it does not come to that."""
    if part.transfer_syntax_uid in DEFLATED:
        return None
    try:
        header = read_header(part.data, part.transfer_syntax_uid, LIMITS)
    except NotUnderstood:
        return None
    verdict = triage_header(
        header.ds,
        GateSettings(),
        has_pixel_data=header.scan.pixels is not None,
        max_pixels=LIMITS.max_pixels,
        sop_class_uid=part.sop_class_uid,
        transfer_syntax_uid=part.transfer_syntax_uid,
    )
    assert verdict.detail is None or verdict.detail.isprintable()
    for value in (*header.study.values(), *header.series.values(), *header.instance.values()):
        assert not isinstance(value, str) or not any(unicodedata.category(c) == "Cc" for c in value)
    return not header.scan.broken


def _file(part: Part10) -> bytes:
    announced = Announced(part.sop_class_uid, part.sop_instance_uid, part.transfer_syntax_uid)
    return file_prefix(announced, "FUZZ") + part.data


def check_conversation(said: tuple[bytes, ...]) -> None:
    """Each PDU for itself: as a request for an association, and each value in it as a command set."""
    for one in said:
        read_titles(one)
        with suppress(PduError):
            read_associate_ac(one)
        with suppress(PduError):
            request = read_associate_rq(one)
            contexts, answer = accept(request)
            assert answer[0] == 0x02
            assert int.from_bytes(answer[2:6], "big") == len(answer) - 6
            assert all(number % 2 for number in contexts)
        with suppress(NotADataSet):
            decode(one[12:], IMPLICIT_VR, MAX_ELEMENTS)
        with suppress(CommandError):
            command = read_command(one[12:])
            response = read_response(write_response(command, Status.CANNOT_UNDERSTAND, "x"))
            assert response.status == Status.CANNOT_UNDERSTAND
    assert write_associate_rj(ANY_REJECTION)[0] == 0x03


def check_decoding(case: Case, sandbox: Sandbox, folder: Path) -> bool:
    """In the sandbox, where everything ends in an image (True) or in a code (False)."""
    assert case.part is not None
    path = folder / f"{case.number}.dcm"
    path.write_bytes(_file(case.part))
    try:
        sandbox.prepare(path)
    except Refused:
        return False
    finally:
        path.unlink()
    return True
