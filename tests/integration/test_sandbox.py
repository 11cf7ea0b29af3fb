"""Decoding children: what they hand back, what they survive, and what they may not do."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from chexmodels.dicom.part10 import ReadLimits, read
from chexnode.sandbox.pool import NoChild, Pool
from chexnode.settings.limits import LimitSettings
from chexnode.vocabulary.errors import Refused, Transient
from chexnode.vocabulary.reasons import Reason
from chexnode.work.prepared import Prepared, prepare_file
from chexnode.work.sandbox import Sandbox
from support.radiographs import part10, radiograph
from support.servers import wait_for

LIMITS = LimitSettings()
TOP_MEMORY = 2_000_000_000


class Children:
    """The decoding processes that started since."""

    def __init__(self) -> None:
        self._before: set[int] = set()
        self._before = {child.pid for child in self()}

    def __call__(self) -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process().children()
            if child.pid not in self._before and "chexnode.work.child" in child.cmdline()[:3]
        ]

    def only(self) -> psutil.Process:
        wait_for(self, "a child to have its command line")  # it has a number before
        (child,) = self()
        return child


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[tuple[Sandbox, Children]]:
    children = Children()
    with Sandbox(LIMITS, 64, "letterbox", 1) as sandbox:
        yield sandbox, children


@pytest.fixture
def sandbox(shared_sandbox: tuple[Sandbox, Children]) -> Sandbox:
    return shared_sandbox[0]


@pytest.fixture
def child(shared_sandbox: tuple[Sandbox, Children], chest: Path) -> psutil.Process:
    """The one process of ``sandbox``, warm."""
    sandbox, children = shared_sandbox
    sandbox.prepare(chest)
    return children.only()


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    path = tmp_path / "chest.dcm"
    path.write_bytes(part10(radiograph("DX", (300, 200))))
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A file that a child waits at, until somebody writes into it."""
    path = tmp_path / "pipe.dcm"
    os.mkfifo(path)
    return path


def test_a_path_is_taken_from_the_callers_folder(
    sandbox: Sandbox, chest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chest.parent)
    assert sandbox.prepare(Path(chest.name)).image.shape == (64, 64)


def reason_of(sandbox: Sandbox, path: Path) -> Reason:
    with pytest.raises(Refused) as caught:
        sandbox.prepare(path)
    return caught.value.reason


def test_hands_back_what_in_process_decoding_gives(sandbox: Sandbox, chest: Path) -> None:
    prepared = sandbox.prepare(chest)
    wanted = prepare_file(read(chest.read_bytes(), ReadLimits()), 64, "letterbox", ReadLimits())
    np.testing.assert_array_equal(prepared.image, wanted.image)
    np.testing.assert_array_equal(prepared.display, wanted.display)
    assert (prepared.geometry, prepared.stats, prepared.notes) == (wanted.geometry, wanted.stats, wanted.notes)
    assert prepared.header == wanted.header
    assert str(prepared.header.PatientName) == "Müller^Jörg"
    assert prepared.header.file_meta.TransferSyntaxUID == wanted.header.file_meta.TransferSyntaxUID
    assert "PixelData" not in prepared.header


def test_a_child_imports_no_model_queue_or_database() -> None:
    script = (
        "import sys, chexnode.work.child, chexnode.work.prepared, chexmodels.dicom.decode;"
        "print([m for m in ('torch', 'monai', 'celery', 'kombu', 'sqlalchemy', 'pynetdicom') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_child_inherits_no_environment_and_no_descriptor(chest: Path) -> None:
    children = Children()
    with chest.open("rb") as inherited, Sandbox(LIMITS, 64, "letterbox", 1) as sandbox:
        os.set_inheritable(inherited.fileno(), True)
        sandbox.prepare(chest)
        child = children.only()
        assert set(child.environ()) <= {"PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
        assert not child.open_files()


def test_a_child_has_limits_and_no_network(child: psutil.Process) -> None:
    memory, _hard = child.rlimit(psutil.RLIMIT_AS)
    assert memory <= child.memory_info().vms + LIMITS.decode_memory_mb * 1_000_000 + 200_000_000
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_NOFILE)[1] <= 32
    assert child.rlimit(psutil.RLIMIT_CPU)[0] <= sum(child.cpu_times()[:2]) + LIMITS.decode_seconds + 2
    allowed = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True).returncode == 0
    same = os.readlink(f"/proc/{child.pid}/ns/net") == os.readlink("/proc/self/ns/net")
    assert same is not allowed, "where the kernel lets a process leave the network, a child has left it"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\0" * 5000, Reason.MALFORMED),
        (part10(radiograph("CR"))[:-100], Reason.MALFORMED),
        (part10(radiograph("CR", Rows=65535, Columns=65535)), Reason.DECODE_LIMIT),
        (part10(radiograph("CR", NumberOfFrames=10**6)), Reason.DECODE_LIMIT),
        (part10(radiograph("CR", Rows=97)), Reason.PIXEL_SIZE),
        (part10(radiograph("CR", BitsAllocated=12)), Reason.UNDECODABLE),
    ],
)
def test_hostile_files_get_a_code_and_the_child_lives(
    sandbox: Sandbox, child: psutil.Process, tmp_path: Path, content: bytes, reason: Reason
) -> None:
    path = tmp_path / "hostile.dcm"
    path.write_bytes(content)
    assert reason_of(sandbox, path) is reason
    assert child.is_running()


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, RLELossless])
def test_garbage_codestreams_end_in_a_code(sandbox: Sandbox, tmp_path: Path, chest: Path, syntax: str) -> None:
    rng = np.random.default_rng(0)
    for length in (2, 100, 5000):
        ds = radiograph("CR", PixelData=encapsulate([rng.bytes(length)]))
        ds.file_meta.TransferSyntaxUID = syntax
        (tmp_path / "garbage.dcm").write_bytes(part10(ds))
        assert reason_of(sandbox, tmp_path / "garbage.dcm") is Reason.UNDECODABLE
    assert isinstance(sandbox.prepare(chest), Prepared)


def test_a_missing_file_and_an_unreadable_one_are_different_things(sandbox: Sandbox, tmp_path: Path) -> None:
    assert reason_of(sandbox, tmp_path / "gone.dcm") is Reason.SOURCE_MISSING
    with pytest.raises(Transient):
        sandbox.prepare(tmp_path)  # a folder


def test_too_much_memory_is_refused_and_the_next_image_works(tmp_path: Path, chest: Path) -> None:
    path = tmp_path / "large.dcm"
    # 49 MB as stored, 196 MB as float32, and copies
    path.write_bytes(part10(radiograph("CR", (8, 8), Rows=7000, Columns=7000, PixelData=bytes(49_000_000))))
    with Sandbox(LimitSettings(decode_memory_mb=256), 64, "letterbox", 1) as sandbox:
        assert reason_of(sandbox, path) is Reason.DECODE_LIMIT
        assert isinstance(sandbox.prepare(chest), Prepared)


def test_a_child_that_does_not_answer_in_time_is_replaced(chest: Path, pipe: Path) -> None:
    children = Children()
    with Sandbox(LimitSettings(decode_seconds=0.5), 64, "letterbox", 1) as sandbox:
        late = children.only()
        assert reason_of(sandbox, pipe) is Reason.DECODE_LIMIT
        assert not late.is_running()
        assert isinstance(sandbox.prepare(chest), Prepared)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_the_end_of_a_used_child_does_not_convict_the_image(chest: Path, pipe: Path, end: signal.Signals) -> None:
    children = Children()
    with Sandbox(LIMITS, 64, "letterbox", 1) as sandbox, ThreadPoolExecutor(1) as pool:
        wanted = sandbox.prepare(chest)
        used = children.only()
        future = pool.submit(sandbox.prepare, pipe)
        with pipe.open("wb"):  # opens when the child does
            used.send_signal(end)
            psutil.wait_procs([used])
        pipe.write_bytes(chest.read_bytes())  # and this when its successor does
        np.testing.assert_array_equal(future.result().image, wanted.image)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (signal.SIGSEGV, Refused(Reason.UNDECODABLE, "the decoder crashed (SIGSEGV)")),
        (signal.SIGXCPU, Refused(Reason.DECODE_LIMIT, "decoding took too much CPU time")),
        (signal.SIGKILL, Transient("the decoding child was killed")),
    ],
)
def test_the_end_of_a_fresh_child_does(chest: Path, pipe: Path, end: signal.Signals, outcome: Exception) -> None:
    children = Children()
    with Sandbox(LIMITS, 64, "letterbox", 1) as sandbox, ThreadPoolExecutor(1) as pool:
        future = pool.submit(sandbox.prepare, pipe)
        with pipe.open("wb"):
            children.only().send_signal(end)
            with pytest.raises(type(outcome), match=re.escape(str(outcome))):
                future.result()
        assert isinstance(sandbox.prepare(chest), Prepared)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No pipe can be made, nor a file opened; what is open stays so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_machine_that_starts_no_child_convicts_no_image(chest: Path) -> None:
    with ExitStack() as opened:
        with no_descriptors():
            sandbox = opened.enter_context(Sandbox(LIMITS, 64, "letterbox", 1))
        for _ in range(2):
            with no_descriptors(), pytest.raises(NoChild, match="cannot be started: Too many open files"):
                sandbox.prepare(chest)
        assert isinstance(sandbox.prepare(chest), Prepared)


def test_the_judgement_on_a_file_outlives_a_child_that_cannot_be_replaced(chest: Path, pipe: Path) -> None:
    with Sandbox(LimitSettings(decode_seconds=0.5), 64, "letterbox", 1) as sandbox:
        with no_descriptors():
            assert reason_of(sandbox, pipe) is Reason.DECODE_LIMIT
        assert isinstance(sandbox.prepare(chest), Prepared)


LIAR = """
import os, struct, sys
ready = b'{"confinement": {"network": "none"}}'
os.write(1, struct.pack(">IQ", len(ready), 0) + ready)
sys.stdin.buffer.readline()
os.write(1, struct.pack(">IQ", 60000, 0) + b"[" * 60000)
"""


def test_an_answer_too_deep_to_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "liar.py").write_text(LIAR)
    monkeypatch.syspath_prepend(tmp_path)
    with Pool("liar", LIMITS, 1, {}) as pool, pytest.raises(Refused, match="without an answer"):
        pool.ask({}, 0)


def test_threads_share_the_children(chest: Path) -> None:
    children = Children()
    with Sandbox(LIMITS, 64, "letterbox", 2) as sandbox:
        with ThreadPoolExecutor(6) as pool:
            images = [prepared.image for prepared in pool.map(sandbox.prepare, [chest] * 24)]
        assert len(children()) == 2
    assert not children()
    for image in images:
        np.testing.assert_array_equal(image, images[0])


def test_children_die_with_the_worker(chest: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from chexnode.settings.limits import LimitSettings;"
        "from chexnode.work.sandbox import Sandbox\n"
        "with Sandbox(LimitSettings(), 64, 'letterbox', 1) as sandbox:\n"
        f"    sandbox.prepare(Path({str(chest)!r})); print('ready', flush=True); sys.stdin.read()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    (child,) = psutil.Process(worker.pid).children()
    child.suspend()  # it cannot notice by itself
    worker.kill()
    worker.communicate()
    assert psutil.wait_procs([child], timeout=10)[1] == []


@pytest.mark.shared
def test_every_collected_file_ends_in_an_image_or_a_code(shared: Path) -> None:
    expected = {
        "102_jpeg_dim_bomb.dcm": Reason.PIXEL_SIZE,
        "108_j2k_dim_bomb.dcm": Reason.PIXEL_SIZE,
        "109_jpegls_dim_bomb.dcm": Reason.PIXEL_SIZE,
        "113_pixeldata_len_4g.dcm": Reason.MALFORMED,
        "120_nested_1500.dcm": Reason.TOO_DEEP,
        "103_rle_bad_offsets.dcm": Reason.UNDECODABLE,
    }
    prepared, refused, peak, children = set(), {}, 0, Children()
    with Sandbox(LIMITS, 64, "letterbox", 1) as sandbox:
        for path in sorted((shared / "data" / "dicom").rglob("*.dcm")):
            try:
                sandbox.prepare(path)
                prepared.add(path.parent.name)
            except Refused as refusal:
                refused[path] = refusal.reason
            child = children.only()
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            peak = max(peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
    assert {path.name: reason for path, reason in refused.items() if path.name in expected} == expected
    assert not {"chest", "not_chest"} & {path.parent.name for path in refused}
    assert {"chest", "not_chest", "other_modalities"} <= prepared
    assert 0 < peak < TOP_MEMORY
