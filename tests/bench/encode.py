"""How long the results of one 2500 x 2048 radiograph take on one core, and how much of it is highdicom's own.

    python tests/bench/encode.py

Prints medians of interleaved runs, in milliseconds. The floor is what highdicom's constructors alone take: for the
Segmentation with its mask, for the Secondary Capture with a picture of that size and nothing drawn on it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from highdicom.sc import SCImage
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.uid import ExplicitVRLittleEndian
from rich.console import Console
from rich.table import Table

from chexnode.encode.objects import check, encode, to_bytes
from chexnode.encode.preview import DISPLAY_LONGEST, caption, render
from chexnode.encode.provenance import CATEGORY, LESION, algorithm, tracking_uid
from chexnode.encode.sc import encode_sc
from chexnode.encode.seg import encode_seg
from chexnode.encode.source import sanitise
from chexnode.ledger.states import ResultKind
from radiographs import PROVENANCE, lesion, parsed, picture, radiograph

SHAPE = (2500, 2048)
RUNS = 15


def main() -> None:
    header = parsed(radiograph("DX", SHAPE))
    source, findings = sanitise(header), lesion(SHAPE)
    fitting = picture((DISPLAY_LONGEST, DISPLAY_LONGEST * SHAPE[1] // SHAPE[0]))
    largest = picture((2048, 2048 * SHAPE[1] // SHAPE[0]))
    texts = caption(findings, PROVENANCE)
    seg, rgb, jpeg = (ResultKind.SEG, "planar"), (ResultKind.SC, "rgb"), (ResultKind.SC, "jpeg")
    encoded = {pair: encode(source, fitting, findings, PROVENANCE, [pair])[0].data for pair in (seg, rgb, jpeg)}
    segmentation = encode_seg(source, findings, PROVENANCE, "planar")
    capture = encode_sc(source, fitting, findings, PROVENANCE, "rgb")
    assert findings.mask is not None
    mask = findings.mask[np.newaxis].astype(np.uint8)
    rendered = render(fitting, findings, texts)
    steps: dict[str, Callable[[], object]] = {
        "all: SEG + SC rgb": lambda: encode(source, fitting, findings, PROVENANCE, [seg, rgb]),
        "all: SEG + SC jpeg": lambda: encode(source, fitting, findings, PROVENANCE, [seg, jpeg]),
        "all: SEG + SC rgb, display of 2048": lambda: encode(source, largest, findings, PROVENANCE, [seg, rgb]),
        "sanitise the header": lambda: sanitise(header),
        "build SEG": lambda: encode_seg(source, findings, PROVENANCE, "planar"),
        "  of it highdicom's constructor": lambda: highdicom_seg(source.template(), mask),
        "write SEG": lambda: to_bytes(segmentation),
        "check SEG": lambda: check(encoded[seg], source, findings),
        "render the picture": lambda: render(fitting, findings, texts),
        "build SC rgb, picture included": lambda: encode_sc(source, fitting, findings, PROVENANCE, "rgb"),
        "  highdicom's constructor, whole picture": lambda: highdicom_sc(rendered),
        "build SC jpeg, picture included": lambda: encode_sc(source, fitting, findings, PROVENANCE, "jpeg"),
        "write SC rgb": lambda: to_bytes(capture),
        "check SC rgb": lambda: check(encoded[rgb], source, findings),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(RUNS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if run:  # the first is the caches'
                times[name].append((time.perf_counter() - start) * 1000)
    table = Table("step", "median ms", "of all", title=f"{SHAPE[0]} x {SHAPE[1]}, {RUNS} runs")
    whole = statistics.median(times["all: SEG + SC rgb"])
    for name, taken in times.items():
        table.add_row(name, f"{statistics.median(taken):.1f}", f"{statistics.median(taken) / whole:.2f}")
    Console().print(table)
    Console().print({f"{kind} {variant}": f"{len(data) / 1e6:.2f} MB" for (kind, variant), data in encoded.items()})


def highdicom_seg(template: object, mask: np.ndarray) -> Segmentation:
    """Build a bare Segmentation, nothing of ours around it."""
    description = SegmentDescription(
        1, "x", CATEGORY, LESION, "AUTOMATIC", algorithm(PROVENANCE), tracking_uid(PROVENANCE.job_key), "x"
    )
    return Segmentation(
        [template], mask, "BINARY", [description], "1.2.3", 1, "1.2.4", 1, "x", "x", "x", "x", omit_empty_frames=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip


def highdicom_sc(rendered: np.ndarray) -> SCImage:
    """Build a bare Secondary Capture, nothing of ours around it."""
    return SCImage(
        rendered, "RGB", 8, "PATIENT", "1.2.3", "1.2.4", 1, "1.2.5", 1, "x", patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )  # fmt: skip


if __name__ == "__main__":
    main()
