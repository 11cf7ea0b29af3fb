"""A running receiver and worker under fire, and the judge who says afterwards whether they kept their promises."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from sqlalchemy import select

from chexnode.ledger.schema import instances, jobs
from chexnode.vocabulary.reasons import Reason
from chexnode.vocabulary.states import InstanceState, JobState
from fuzz import pdus, stores
from fuzz.cases import Case
from support.nodes import Node
from support.senders import Part10, Sender, an_image, associate_rq, read_command, read_part10, store_file, us
from support.servers import LOOPBACK, wait_for

ANSWER_SECONDS = 60.0
"""No conversation may take longer to end once its sender has said all; generous, for loaded machines."""
SETTLE_SECONDS = 300.0

_SLACK = 3
"""Open files and threads that a process may have more after hundreds of cases: pools grow; a leak is more."""

_CODED = {reason.value for reason in Reason}
_CODED_ENDS = {JobState.REFUSED, JobState.SKIPPED}
_SETTLED = {JobState.DONE} | _CODED_ENDS


class Judge:
    """Plays cases to a node's receiver, and to its web role, and keeps book of what it acknowledged."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.acknowledged: dict[str, set[str]] = defaultdict(set)
        """SOP Instance UID -> digests it was acknowledged with; none where they cannot be told."""
        self.good = 0
        self._read = 0

    # Playing

    def play(self, case: Case) -> None:
        """Say what ``case`` says, read all the answers, and keep book."""
        if case.body is not None:
            for uid in stores.store(self.node.web_port, case.body).stored:
                self.acknowledged[uid] |= set(case.body.digests)
            return
        said = case.said if case.part is None else tuple(_store(case.part))
        uids = acknowledgements(self.converse(said))
        sent = data_sets(b"".join(said))
        for uid in uids:
            assert sent, "acknowledged a store although no whole data set was sent"
            self.acknowledged[uid] |= sent

    def converse(self, said: Sequence[bytes]) -> bytes:
        """All that is answered to ``said``; fails where the connection is not ended in time."""
        answer = b""
        with socket.create_connection((LOOPBACK, self.node.port), timeout=ANSWER_SECONDS) as sock:
            try:
                for one in said:
                    sock.sendall(one)
                sock.shutdown(socket.SHUT_WR)
            except TimeoutError:
                raise
            except OSError:  # the node has hung up, by a reset or otherwise: what it said before counts
                pass
            with suppress(ConnectionResetError):
                while part := sock.recv(1 << 16):
                    answer += part
        return answer

    # Judging

    def snapshot(self) -> dict[int, tuple[int, int]]:
        """Process id -> (open files, threads) of all roles and their children."""
        found = {}
        for each in self._tree():
            with suppress(psutil.NoSuchProcess):  # a sandbox child that was just replaced
                found[each.pid] = (each.num_fds(), each.num_threads())
        return found

    def _tree(self) -> list[psutil.Process]:
        assert self.node.up.process is not None
        one = psutil.Process(self.node.up.process.pid)
        return [one, *one.children(recursive=True)]

    def still_serves(self) -> None:
        """A good image is stored, after a C-ECHO."""
        self.good += 1
        with_echo = pdus.message(1, {0x0002: b"1.2.840.10008.1.1", 0x0100: us(0x0030), 0x0110: us(1)}, None, 1000)
        answer = self.converse([associate_rq([("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])]), *with_echo, pdus.RELEASE])
        assert _statuses(answer) == [(0x8030, 0, "")], "no answer to C-ECHO"
        part = an_image(f"1.2.3.77.{self.good}", pixels=64 * 64)
        assert store_file(self.node.port, part, timeout=ANSWER_SECONDS).status == 0
        self.acknowledged[part.sop_instance_uid].add(hashlib.sha256(part.data).hexdigest())

    def complaints(self) -> list[str]:
        """Lines of the logs since the last call that tell of a fault: everything at level error."""
        content = self.node.up.log.read_bytes()
        fresh, self._read = content[self._read :], len(content)
        return [
            line
            for line in fresh.decode("utf-8", "replace").splitlines()
            if "Traceback" in line or '"level": "error"' in line
        ]

    def settle(self) -> None:
        """Wait until the worker has nothing left to do."""
        ledger = self.node.ledger()
        try:
            wait_for(lambda: not ledger.views.jobs(["QUEUED", "RUNNING"]), "the queue to drain", SETTLE_SECONDS, 0.2)
        finally:
            ledger.close()

    def judge(self) -> dict[str, int]:
        """Everything acknowledged is there, everything there has a coded end, nothing else is. Returns the account."""
        account = self.node.account()
        ledger = self.node.ledger()
        try:
            with ledger.database.read() as conn:
                rows = conn.execute(select(instances)).all()
                ends = conn.execute(select(jobs)).all()
        finally:
            ledger.close()
        known = defaultdict(set)
        for row in rows:
            known[row.sop_instance_uid].add(row.digest)
            assert (row.reason is None) == (row.state == InstanceState.ANALYSABLE), row
            assert row.reason is None or row.reason in _CODED
            content = read_part10(self.node.data_dir / row.path)
            assert hashlib.sha256(content.data).hexdigest() == row.digest, "the file is not what was sent"
        for uid, digests in self.acknowledged.items():
            assert known[uid], f"{uid} was acknowledged and is not known"
            assert not digests or digests & known[uid], f"{uid} is not what was acknowledged"
        for job in ends:
            assert job.state in _SETTLED, f"{job.state}: {job.error}"
            assert (job.reason in _CODED) == (job.state in _CODED_ENDS)
        sources = set((self.node.data_dir / "spool" / "sources").rglob("*.dcm"))
        digests = {row.digest for row in rows}  # the same bytes in another transfer syntax may leave one for the sweep
        assert all(path.name.partition("-")[0] in digests for path in sources), "files without rows"
        wait_for(lambda: not list((self.node.data_dir / "spool" / "tmp").iterdir()), "unfinished files to go")
        return {key: value for key, value in account.items() if isinstance(value, int)}

    def leaks(self, before: dict[int, tuple[int, int]]) -> list[str]:
        """Processes with more open files or threads than ``before``, once whatever was ending has ended."""

        def more() -> list[str]:
            return [
                f"{pid}: {before[pid]} -> {now}"
                for pid, now in self.snapshot().items()
                if pid in before and any(new > old + _SLACK for new, old in zip(now, before[pid], strict=True))
            ]

        with suppress(AssertionError):
            wait_for(lambda: not more(), "connections to end", 20, every=0.2)
        return more()

    def memory(self) -> int:
        """MB that all processes together have taken at most."""
        return sum(peak_memory(each.pid) for each in self._tree()) // 10**6


def peak_memory(pid: int) -> int:
    """Bytes of physical memory that a process has had at most (VmHWM)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _store(part: Part10) -> list[bytes]:
    """An association for one data set."""
    elements = Sender.store_elements(part) | {0x0110: us(1)}
    contexts = [(part.sop_class_uid or "1.2", [part.transfer_syntax_uid or "1.2"])]
    return [associate_rq(contexts), *pdus.message(1, elements, part.data, 16_384), pdus.RELEASE]


def _pdus(stream: bytes) -> list[tuple[int, bytes]]:
    """Type and content of each PDU, the last one as far as it goes: a value in it may be whole all the same."""
    found, position = [], 0
    while position + 6 <= len(stream):
        kind, length = struct.unpack_from(">BxL", stream, position)
        found.append((kind, stream[position + 6 : position + 6 + length]))
        position += 6 + length
    return found


def _values(stream: bytes) -> list[tuple[int, bytes]]:
    """Message control header and bytes of each whole presentation data value."""
    found = []
    for kind, body in _pdus(stream):
        position = 0
        while kind == 0x04 and position + 6 <= len(body):
            length, control = struct.unpack_from(">LxB", body, position)
            if length < 2 or position + 4 + length > len(body):
                break
            found.append((control, body[position + 6 : position + 4 + length]))
            position += 4 + length
    return found


def data_sets(stream: bytes) -> set[str]:
    """SHA-256 (hex) of each data set that was sent to its end."""
    found, collected = set(), b""
    for control, part in _values(stream):
        if control & 0x01:
            continue
        collected += part
        if control & 0x02:
            found.add(hashlib.sha256(collected).hexdigest())
            collected = b""
    return found


def _statuses(stream: bytes) -> list[tuple[int, int, str]]:
    """Command field, status and SOP Instance UID of each response."""
    found = []
    for control, part in _values(stream):
        if control & 0x01:
            with suppress(KeyError, struct.error):  # a request of the node's own has no status
                response = read_command(part)
                uid = response.elements.get(0x1000, b"").decode("latin-1").rstrip("\0")
                found.append((int.from_bytes(response.elements[0x0100], "little"), response.status, uid))
    return found


def acknowledgements(stream: bytes) -> list[str]:
    """SOP Instance UIDs of the C-STORE responses with status 0x0000."""
    return [uid for field, status, uid in _statuses(stream) if field == 0x8001 and status == 0]
