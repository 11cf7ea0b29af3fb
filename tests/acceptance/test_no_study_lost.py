"""The promise under attack: 8 senders push images while everything around them is killed, flushed, filled and refused,
and while some of the images are corrected and some are erased.

``make chaos`` runs the long form; CHEXNODE_CHAOS_SEED repeats the blows of a run, CHEXNODE_CHAOS_IMAGES changes its
length.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest

from chexnode.vocabulary.errors import Transient
from support.chaos import (
    Chaos,
    FillDisk,
    FlushRedis,
    Freeze,
    Kill,
    LoseRows,
    RefuseAssociations,
    Seconds,
    Target,
    WrongClock,
)
from support.clocks import can_be_wrong
from support.corrections import Act, Corrector, plan, wait_until_delivered, wait_until_files_are_old
from support.datasets import dicom
from support.disks import SmallDisk
from support.modalities import Modality, Outgoing
from support.nodes import Node, loopback_destination
from support.reckoning import assert_nothing_lost, figures, table
from support.servers import LOOPBACK, Orthanc, Postgres, Redis, wait_for

SENDERS = 8
FEW = 32
"""Images of the short form: enough for each kind of INELIGIBLE."""
SHAPE = (256, 216)
PAUSE: Seconds = (1, 6)
"""Between two associations of a sender."""
FIRST_CR = 100_001
"""An odd seed beyond those of the other phantoms: see ``phantom_dicom.KINDS``."""
SKEW = (60, 120)
"""Seconds that a clock may be behind or ahead."""
START_SECONDS = 5
"""What a worker takes to start where nothing else goes on."""
RECOVERY_SECONDS = 300
"""Longest time until nothing is to be done any more; leases of dead couriers last 60 s, and so does the back-off."""

INELIGIBLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("NOT_ANALYSED lateral-view", {"ViewPosition": "LL"}),
    ("NOT_ANALYSED body-part", {"BodyPartExamined": "HAND"}),
    ("NOT_ANALYSED modality", {"Modality": "MR"}),
    ("REFUSED constant-pixels", {"PixelData": bytes(2 * SHAPE[0] * SHAPE[1])}),
)
"""How an image ends, and the attributes that make it do so."""

REAL: tuple[tuple[str, str, str], ...] = (
    ("chest/rsna_cr_ap_jpeg_baseline", "-xy", "DONE"),
    ("chest/nih_dx_implicit", "-x=", "DONE"),
    ("not_chest/dog_thorax_dx_mono1", "-x=", "NOT_ANALYSED non-human"),
    ("other_modalities/CT_small", "-x=", "NOT_ANALYSED modality"),
    ("other_modalities/image_dfl", "-xd", "NOT_ANALYSED modality"),
)
"""File under data/dicom, how storescu proposes its transfer syntax, and how it ends."""


@dataclass(frozen=True, slots=True)
class Image:
    """A file to be sent, and how it has to end."""

    outgoing: Outgoing
    end: str


def phantoms(folder: Path, count: int, draw: random.Random) -> list[Image]:
    """``count`` phantoms, one in eight of them not to be analysed."""
    made = []
    for number in range(count):
        file = folder / f"{number}.dcm"
        if number % 8 == 7:
            end, attributes = INELIGIBLE[number // 8 % len(INELIGIBLE)]
            # A CR image: a DX image says twice what its view is.
            dicom(file, FIRST_CR + 2 * number, 0, SHAPE, **attributes)
        else:
            end = "DONE"
            dicom(file, number, draw.randint(0, 3), SHAPE)
        made.append(Image(Outgoing(file, uid_of(file)), end))
    return made


def real_images(shared: Path | None) -> list[Image]:
    """A few real ones in other transfer syntaxes, where there are any."""
    if shared is None:
        return []
    files = [(shared / "data" / "dicom" / f"{name}.dcm", option, end) for name, option, end in REAL]
    return [Image(Outgoing(file, uid_of(file), option), end) for file, option, end in files]


def uid_of(file: Path) -> str:
    """Its SOP Instance UID."""
    return str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def dealt(everything: list[Image], draw: random.Random) -> list[list[Outgoing]]:
    """Each image to one sender, one in eight to a second one too."""
    queues: list[list[Outgoing]] = [[] for _ in range(SENDERS)]
    for image in draw.sample(everything, len(everything)):
        for number in draw.sample(range(SENDERS), 2 if draw.random() < 1 / 8 else 1):
            queues[number].append(image.outgoing)
    return queues


class Site:
    """A node on PostgreSQL and Redis with two workers, its PACS, and small disks under both."""

    def __init__(self, folder: Path, count: int, watermark: float, up: ExitStack) -> None:
        megabytes = 40 + count  # a source and its results take 0.8 MB
        self.postgres = up.enter_context(Postgres(in_memory=True))
        self.redis = up.enter_context(Redis(folder / "redis"))
        self.disk = up.enter_context(SmallDisk(folder / "node" / "var", megabytes))
        self.pacs_disk = up.enter_context(SmallDisk(folder / "pacs" / "storage", megabytes))
        self.pacs = up.enter_context(Orthanc(folder / "pacs", options={"StorageDirectory": str(self.pacs_disk.folder)}))
        disk = dict(self.disk.settings) | ({"watermark": watermark} if self.disk.is_real else {})
        self.node = Node(
            folder / "node",
            database={"url": self.postgres.create_database()},
            broker={"url": self.redis.url},
            disk=disk,
            destination=[
                loopback_destination(
                    "pacs",
                    "ORTHANC",
                    self.pacs.port,
                    timeout_seconds=10,
                    withdraw="delete",
                    withdraw_url=f"http://{LOOPBACK}:{self.pacs.http_port}",
                    withdraw_by_orthanc=True,
                )
            ],
            # That a worker ends is not the images' doing here.
            worker={"max_crashes": 1000},
        )
        self.node.run("db", "upgrade")
        self.restored = LoseRows(self.node, folder / "copies", (2, 10))
        self.receiver = up.enter_context(self.node.role("receive"))
        began = time.monotonic()
        self.workers = [up.enter_context(self.node.role("worker", number)) for number in (1, 2)]
        self.slowness = min(max(1.0, (time.monotonic() - began) / START_SECONDS / 2), 6.0)

    def targets(self) -> Iterator[Target]:
        """What breaks, and how often."""
        short: Seconds = (0, 4)
        for role, rests in ((self.receiver, (3, 15)), *((worker, (5, 25)) for worker in self.workers)):
            wrong = [WrongClock(role, short, *SKEW)] if can_be_wrong() else []
            yield Target(role.name, [Kill(role, short), *wrong], rests, role)
        yield Target("redis", [Kill(self.redis, (1, 10)), FlushRedis(self.redis)], (3, 12), self.redis)
        yield Target("postgres", [Kill(self.postgres, short), Freeze(self.postgres, (1, 8))], (5, 20), self.postgres)
        yield Target("database", [self.restored], (15, 40))
        yield Target("orthanc", [Kill(self.pacs, (1, 10)), RefuseAssociations(self.pacs, (1, 10))], (3, 15), self.pacs)
        yield Target("disk", [FillDisk(self.disk, "node", (2, 8))], (4, 15))
        if self.pacs_disk.is_real:
            yield Target("pacs' disk", [FillDisk(self.pacs_disk, "orthanc", (2, 8))], (4, 15))


@contextmanager
def site(folder: Path, count: int, watermark: float) -> Iterator[Site]:
    """Everything up; down again at the end."""
    with ExitStack() as up:
        yield Site(folder, count, watermark, up)


def unfinished(node: Node) -> float:
    """How many images are not at their end; infinitely many while the database is away."""
    try:
        with closing(node.ledger()) as ledger:
            return len(ledger.views.jobs(["QUEUED", "RUNNING", "DELIVERING"], limit=None))
    except Transient:
        return float("inf")


def run(folder: Path, count: int, seed: str, shared: Path | None) -> str:
    """Send ``count`` images under attack, reckon up, and return the figures."""
    draw = random.Random(seed)
    everything = phantoms(folder / "in", count, draw) + real_images(shared)
    after = plan([i.outgoing for i in everything if i.end == "DONE" and i.outgoing.file.parent == folder / "in"], draw)
    at_once = after.of(Act.ERASED_AT_ONCE)
    queues = dealt([i for i in everything if i.outgoing.sop_instance_uid not in at_once], draw)
    to_be_acknowledged = Counter(one.sop_instance_uid for queue in queues for one in queue)
    # At 0.9 a full disk is refused before a store begins, at 1.0 in the middle of it.
    watermark = draw.choice([0.9, 1.0])
    stopping = threading.Event()
    with site(folder, count, watermark) as the:
        pause = (PAUSE[0] * the.slowness, PAUSE[1] * the.slowness)
        modalities = [
            Modality(f"MODALITY{n}", the.node.port, queue, pause, f"{seed} {n}", stopping)
            for n, queue in enumerate(queues)
        ]

        def acknowledged() -> Counter[str]:
            return Counter(uid for modality in modalities for uid in list(modality.acknowledged))

        corrector = Corrector(
            the.node,
            after,
            folder / "corrected",
            lambda uid: acknowledged()[uid] == to_be_acknowledged[uid],
            the.restored.lock,
            seed,
            stopping,
        )
        began = time.monotonic()
        try:
            with Chaos(list(the.targets()), seed, the.slowness) as chaos:
                for thread in (*modalities, corrector):
                    thread.start()
                wait_for(
                    lambda: (
                        chaos.has_struck_everywhere()
                        and not any(thread.is_alive() for thread in (*modalities, corrector))
                        and unfinished(the.node) <= count / 10
                    ),
                    "all images to be acknowledged and most to be delivered",
                    (120 + 10 * count) * the.slowness,
                    every=2,
                )
                chaos.end()
            assert not corrector.record.errors, corrector.record.errors
            ended = time.monotonic()
            corrector.erase_again()
            left = len(everything) - len(after.erased) + len(after.corrected)
            the.node.wait_until_settled(left, RECOVERY_SECONDS * the.slowness)
            wait_until_delivered(the.node, RECOVERY_SECONDS * the.slowness)
            wait_until_files_are_old(ended)
            corrector.erase_again()
            settled = time.monotonic()
            assert not chaos.tally.deaths, "\n".join(chaos.tally.deaths)
            assert all(server.process and server.process.poll() is None for server in (the.receiver, *the.workers))
            assert acknowledged() == to_be_acknowledged
            assert Counter(corrector.record.sent) == Counter(after.corrected | at_once)
            ends = {i.outgoing.sop_instance_uid: i.end for i in everything}
            assert_nothing_lost(the.node, the.pacs, ends, after, corrector.record)
        except BaseException:
            print("\n".join([f"seed {seed}", *chaos.tally.history]))
            raise
        finally:
            stopping.set()
        refusals = sum((modality.refusals for modality in modalities), Counter[str]())
        rows = {
            "seed": seed,
            "disk": f"{'a tmpfs' if the.disk.is_real else 'a reserve'}, watermark {watermark}",
            "clocks": f"-{SKEW[0]} to {SKEW[1]} s" if can_be_wrong() else "right: no C compiler",
            "machine": f"{the.slowness:.1f} times slower than a quiet one",
            "under attack": f"{ended - began:.0f} s",
            "until settled": f"{settled - ended:.0f} s more",
            "stores acknowledged": acknowledged().total() + len(corrector.record.sent),
            **dict(sorted(corrector.record.done.items())),
            "results that an erasure could not withdraw": len(corrector.record.left),
            **{f"not acknowledged: {why}": n for why, n in sorted(refusals.items())},
            **dict(sorted(chaos.tally.strikes.items())),
            **figures(the.node),
        }
    return table(rows)


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Path | None:
    """Where the real images are, if they are."""
    try:
        return Path(request.getfixturevalue("shared"))
    except pytest.skip.Exception:
        return None


@pytest.mark.timeout(900)
def test_no_study_is_lost(
    tmp_path: Path, real: Path | None, chaos_seed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told = run(tmp_path, FEW, chaos_seed, real)
    with capfd.disabled():
        print(f"\n{FEW} images under attack:\n{told}")


@pytest.mark.long
@pytest.mark.timeout(10_800)
def test_no_study_is_lost_of_many(
    tmp_path: Path, real: Path | None, chaos_seed: str, chaos_images: int, capfd: pytest.CaptureFixture[str]
) -> None:
    told = run(tmp_path, chaos_images, chaos_seed, real)
    with capfd.disabled():
        print(f"\n{chaos_images} images under attack:\n{told}")
