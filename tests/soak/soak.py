"""Many instances through one node: does anything grow that should not?

    python tests/soak/soak.py [--instances 20000] [--eligible 500] [--cluster] [--json FILE] [--plot FILE]

Four senders store small instances, 20 to an association, most of them CT slices, hands and lateral views that the gate
closes at once; the eligible ones among them are analysed and their results delivered to Orthanc, while /metrics is
scraped as Prometheus does. Every two seconds the memory (USS), open files and threads of each process are read, and
what lies on the disk and in the database. Afterwards the queue drains, the account must balance, the node is started
again with its retention over, and the files must be gone; then a twentieth as much is sent, and must go too.

Printed is a table of slopes after the first fifth, with their confidence intervals. The exit code is 1 if memory or
open files are not flat, if disk or database do not grow in a straight line, or if anything is left over.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from report import Sample, Usage, judge, show, write
from sqlalchemy import text

from support.nodes import Node, loopback_destination
from support.phantoms import phantom_files
from support.senders import Part10, Sender, an_image, read_part10
from support.servers import LOOPBACK, Orthanc, Postgres, Redis, wait_for

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SENDERS = 4
PER_ASSOCIATION = 20
MOST_WAITING = 40
"""Senders pause while this many images wait for the worker: what it does is to be seen while instances come."""
ROLES = ("receive", "worker", "web", "up")
UNFINISHED = ("QUEUED", "RUNNING", "DELIVERING")


class Soak:
    """One node, what is sent to it, and what was seen meanwhile."""

    def __init__(self, folder: Path, pacs: Orthanc, cluster: dict[str, str] | None, bundle: str, every: float) -> None:
        """``every``: seconds between two looks."""
        tables: dict[str, Any] = {"destination": [loopback_destination("pacs", "ORTHANC", pacs.port)]}
        if cluster is not None:
            tables |= {"database": {"url": cluster["database"]}, "broker": {"url": cluster["broker"]}}
        self.node = Node(folder, bundle, **tables)
        self.processes = (
            [self.node.up] if cluster is None else [self.node.role(r) for r in ("receive", "worker", "web")]
        )
        if cluster is not None:
            self.node.run("db", "upgrade")
        self.pacs, self._every = pacs, every
        self.acknowledged = 0
        self.analysable = 0
        self.samples: list[Sample] = []
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._pids: dict[str, set[int]] = {}
        self.restarts = 0

    # The node

    def start(self) -> None:
        """Start, or start again, every role."""
        for process in self.processes:
            process.start()
        self._pids = {}

    def stop(self) -> None:
        """Stop every role."""
        for process in reversed(self.processes):
            process.stop()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """(name, the labels' values in order, empty ones left out) -> value, as a scrape has them."""
        answer = httpx.get(f"http://{LOOPBACK}:{self.node.web_port}/metrics", timeout=60)
        answer.raise_for_status()
        families = text_string_to_metric_families(answer.text)
        return {
            (s.name, *sorted(filter(None, s.labels.values()))): s.value for family in families for s in family.samples
        }

    def unfinished(self) -> int:
        """Jobs that still need work."""
        found = self.metrics()
        return int(sum(found["chexnode_jobs", state] for state in UNFINISHED))

    # Sending

    def send(self, instances: int, eligible: Sequence[Part10], first: int = 0) -> None:
        """Store ``instances`` instances, ``eligible`` spread evenly among them, and look meanwhile."""
        batches = list(_batches(instances, eligible, first))
        failed: list[BaseException] = []

        def sender() -> None:
            try:
                while not failed:
                    with self._lock:
                        batch = batches.pop(0) if batches else None
                    if batch is None:
                        return
                    self._store(batch)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=sender) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.look()
            time.sleep(self._every)
        self.look()
        if failed:
            raise failed[0]

    def _store(self, batch: Sequence[Part10]) -> None:
        while self.analysable > MOST_WAITING and self.unfinished() > MOST_WAITING:
            time.sleep(1)
        contexts = sorted({(part.sop_class_uid, part.transfer_syntax_uid) for part in batch})
        with Sender(self.node.port, [(c, (t,)) for c, t in contexts], calling="SOAK", timeout=120) as sender:
            for part in batch:
                answer = sender.store(part, 1 + 2 * contexts.index((part.sop_class_uid, part.transfer_syntax_uid)))
                assert answer.status == 0, f"{answer.status:#06x} {answer.comment}"
                with self._lock:
                    self.acknowledged += 1

    # Looking

    def look(self) -> Sample:
        """Read everything once."""
        begin = time.perf_counter()
        self.metrics()
        took = time.perf_counter() - begin
        roles = self._usage()
        sample = Sample(
            round(time.monotonic() - self._begun, 1),
            self.acknowledged,
            roles,
            _allocated(self.node.data_dir / "spool"),
            self._database(),
            round(took, 4),
        )
        self.samples.append(sample)
        return sample

    def _usage(self) -> dict[str, Usage]:
        found: dict[str, list[psutil.Process]] = {}
        for process in self.processes:
            assert process.process is not None
            main = psutil.Process(process.process.pid)
            for one in [main, *main.children(recursive=True)]:
                found.setdefault(_role(one), []).append(one)
        for role in ROLES:
            pids = {one.pid for one in found.get(role, [])}
            self.restarts += len(self._pids.get(role, pids) - pids)
            self._pids[role] = pids
        usage = {}
        for role, processes in found.items():
            try:
                parts = [(p.memory_full_info().uss / 1e6, p.num_fds(), p.num_threads()) for p in processes]
            except psutil.NoSuchProcess:  # a decoding child that was just replaced
                continue
            usage[role] = Usage(*(round(sum(column), 2) for column in zip(*parts, strict=True)))
        return usage

    def _database(self) -> float:
        ledger = self.node.ledger()
        try:
            if ledger.database.engine.dialect.name == "sqlite":
                return sum(f.stat().st_size for f in self.node.data_dir.glob("chexnode.db*")) / 1e6
            with ledger.database.read() as conn:
                return float(conn.execute(text("SELECT pg_database_size(current_database())")).scalar_one()) / 1e6
        finally:
            ledger.close()

    # The end

    def drain(self, seconds: float = 1800) -> float:
        """Wait until nothing needs work; return the seconds it took."""
        begin = time.monotonic()
        wait_for(lambda: not self.unfinished(), "the queue to be drained", seconds, every=1)
        return time.monotonic() - begin

    def retain(self) -> dict[str, float]:
        """Start again with the retention over, and wait until the files are gone; return what was there and what is."""
        files, mb = len(_files(self.node)), _allocated(self.node.data_dir / "spool")
        self.stop()
        self.node.tables["retention"] = {"days": 1e-6}
        self.node.write_settings()
        self.start()
        wait_for(lambda: not _files(self.node), "retention to have deleted every file", 600, every=0.5)
        return {"files": files, "mb": mb, "left_mb": _allocated(self.node.data_dir / "spool")}


def _role(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return "decoder"
    return next((role for role in ROLES if role in words), "decoder")


def _files(node: Node) -> list[Path]:
    return [path for kind in ("sources", "results") for path in (node.data_dir / "spool" / kind).rglob("*.dcm")]


def _allocated(folder: Path) -> float:
    """MB of disk blocks; small files take whole ones."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total / 1e6


def _batches(instances: int, eligible: Sequence[Part10], first: int) -> Iterator[list[Part10]]:
    """One study each."""
    every = instances / len(eligible) if eligible else float("inf")
    given = 0
    for start in range(first, first + instances, PER_ASSOCIATION):
        batch = []
        for number in range(start, min(start + PER_ASSOCIATION, first + instances)):
            if (number - first + 1) / every >= given + 1 and given < len(eligible):
                batch.append(eligible[given])
                given += 1
            else:
                batch.append(_other(number, start))
        yield batch


def _other(number: int, study: int) -> Part10:
    """An instance that the gate closes at once."""
    where = {"_0020000D": f"1.2.3.{study}".encode(), "_0020000E": f"1.2.3.{study}.{number % 4}".encode()}
    uid = f"1.2.826.0.1.3680043.8.498.{number}"
    kind = number % 4
    if kind in (0, 1):
        part = an_image(uid, 256, _00080060=b"CT", _00080016=CT_IMAGE.encode(), **where)
        return replace(part, sop_class_uid=CT_IMAGE)
    if kind == 2:
        return an_image(uid, 256, _00180015=b"HAND", **where)
    return an_image(uid, 256, _00185101=b"LL", **where)


def run(options: argparse.Namespace, folder: Path, pacs: Orthanc, cluster: dict[str, str] | None) -> int:
    """Everything; the exit code."""
    soak = Soak(folder / "node", pacs, cluster, options.bundle, options.every)
    again = max(options.eligible // 20, 1)
    phantoms = phantom_files(folder / "phantoms", options.eligible + again, shape=(256, 216))
    eligible = [read_part10(file) for file in phantoms]
    facts: dict[str, Any] = {"instances": options.instances, "eligible": options.eligible}
    soak.start()
    try:
        begin = time.monotonic()
        soak.analysable = options.eligible
        soak.send(options.instances, eligible[: options.eligible])
        facts["seconds of sending"] = round(time.monotonic() - begin)
        facts["seconds until the queue was drained"] = round(soak.drain(), 1)
        measured = [sample for sample in soak.samples if sample.instances]
        account = soak.node.account()
        facts["account"] = {key: account[key] for key in ("received", "analysed", "failed", "pending", "difference")}
        facts["deliveries"] = dict(Counter(d["state"] for d in soak.node.json("deliveries", "--limit", "1000000")))
        facts["restarted processes"] = soak.restarts
        scrapes = sorted(sample.scrape_seconds for sample in measured)
        facts["seconds of a scrape, median and last"] = (scrapes[len(scrapes) // 2], measured[-1].scrape_seconds)
        faults = []
        if (account["received"], account["analysed"]) != (options.instances, options.eligible):
            faults.append("not all that was sent was received, or not all that is eligible was analysed")
        if set(facts["deliveries"]) != {"SENT"} or soak.restarts:
            faults.append("something was not delivered, or a process died")
        rows = judge(measured, options.instances / 5, options.most_mb, options.most_files)
        faults += [row.what for row in rows if not row.ok]
        write(options, facts, rows, measured)  # what comes now may fail
        if not options.no_retention:
            facts["retention"] = {k: round(v, 2) for k, v in soak.retain().items()}
            soak.send(options.instances // 20, eligible[options.eligible :], first=options.instances)
            soak.drain()
            facts["retention, again"] = {k: round(v, 2) for k, v in soak.retain().items()}
            if soak.node.account()["received"] != options.instances + options.instances // 20:
                faults.append("the account forgot what retention deleted")
    finally:
        soak.stop()
    facts["faults"] = faults or "none"
    show(rows, facts)
    write(options, facts, rows, measured)
    return 1 if faults else 0


def main() -> None:
    """Start the servers, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--eligible", type=int, help="of them, phantoms that are analysed; otherwise one in 40")
    parser.add_argument("--cluster", action="store_true", help="PostgreSQL and Redis instead of the embedded default")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--bundle", default="phantom64", help="the model; the shipped chexnomaly takes far longer")
    parser.add_argument(
        "--most-mb", type=float, default=1.0, help="flat: fewer MB per 1,000 instances, with confidence"
    )
    parser.add_argument("--most-files", type=float, default=1.0, help="the same for open files")
    parser.add_argument("--no-retention", action="store_true", help="stop when the queue is drained")
    parser.add_argument("--json", type=Path, help="also write every sample here")
    parser.add_argument("--plot", type=Path, help="also draw the memory into this PNG file")
    options = parser.parse_args()
    options.eligible = options.eligible or max(options.instances // 40, 1)
    on_disk = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=on_disk)))
        pacs = stack.enter_context(Orthanc(folder / "pacs"))
        cluster = None
        if options.cluster:
            postgres, redis = stack.enter_context(Postgres()), stack.enter_context(Redis(folder / "redis"))
            cluster = {"database": postgres.create_database(), "broker": redis.url}
        raise SystemExit(run(options, folder, pacs, cluster))


if __name__ == "__main__":
    main()
