"""How long the results of one 2500 x 2048 radiograph take on one core, and how much of it is highdicom's own.

    python tests/bench/encode.py

Prints medians of interleaved runs, in milliseconds of this process's own time: other programs on the machine do not
count. The floor is what highdicom's constructors alone take: for the Segmentation with its mask, for the Secondary
Capture with a picture of that size and nothing drawn on it. The lesion is an ellipse, so that its contour has a price.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from highdicom.sc import SCImage
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.uid import ExplicitVRLittleEndian
from rich.console import Console
from rich.table import Table

from chexmodels.finding import Box, Findings, Region
from chexnode.encode.caption import caption
from chexnode.encode.contours import outline
from chexnode.encode.gsps import encode_gsps
from chexnode.encode.heat import encode_heat
from chexnode.encode.objects import encode, to_bytes
from chexnode.encode.picture import DISPLAY_LONGEST, lay_out, render
from chexnode.encode.provenance import ABNORMALITY, CATEGORY, algorithm, tracking_uid
from chexnode.encode.sc import encode_sc
from chexnode.encode.seg import encode_seg
from chexnode.encode.source import sanitise
from chexnode.encode.sr import encode_sr
from chexnode.encode.verify import verify
from chexnode.vocabulary.variants import GspsForm, ResultKind, SrForm, Variant
from support.radiographs import PROVENANCE, hot, parsed, picture, radiograph

SHAPE = (2500, 2048)
RUNS = 15
SEG, SC, SR, GSPS = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS


ALL = "all four: SEG, SR, SC, GSPS"


def ellipse() -> Findings:
    """Return one region of heat, a tenth of the image wide."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = ((y - 800) / 200) ** 2 + ((x - 1400) / 150) ** 2 < 1
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    region = Region(box, int(np.count_nonzero(mask)), 0.91, 0.7)
    return replace(hot(SHAPE), mask=mask, regions=(region,))


def main() -> None:
    header = parsed(radiograph("DX", SHAPE))
    source, findings = sanitise(header), ellipse()
    fitting = picture((DISPLAY_LONGEST, DISPLAY_LONGEST * SHAPE[1] // SHAPE[0]))
    layout = lay_out(fitting.shape, caption(findings, PROVENANCE, source.described), source.pixel_aspect_ratio)
    report = SrForm("comprehensive3d", "contour", "planar")
    seg, rgb, jpeg, heat = (
        Variant.parse(SEG, "planar"),
        Variant.parse(SC, "rgb"),
        Variant.parse(SC, "jpeg"),
        Variant.parse(SC, "heat"),
    )
    sr, gsps = Variant(report), Variant(GspsForm())
    every = (seg, rgb, jpeg, heat, sr, gsps)
    encoded = {each: encode(source, fitting, findings, PROVENANCE, [each])[0].data for each in every}
    segmentation = encode_seg(source, findings, PROVENANCE, "planar")
    capture = encode_sc(source, fitting, findings, PROVENANCE, "rgb")
    assert findings.mask is not None
    whole_mask = findings.mask
    mask = whole_mask[np.newaxis].astype(np.uint8)
    rendered = render(fitting, findings, layout)

    def checked(variant: Variant) -> Callable[[], object]:
        return lambda: verify(encoded[variant], source, findings, PROVENANCE, variant.form)

    steps: dict[str, Callable[[], object]] = {
        ALL: lambda: encode(source, fitting, findings, PROVENANCE, [seg, sr, rgb, gsps]),
        "all four, SC as JPEG": lambda: encode(source, fitting, findings, PROVENANCE, [seg, sr, jpeg, gsps]),
        "all four and the heat map": lambda: encode(source, fitting, findings, PROVENANCE, [seg, sr, rgb, gsps, heat]),
        "sanitise the header": lambda: sanitise(header),
        "build SEG": lambda: encode_seg(source, findings, PROVENANCE, "planar"),
        "  of it highdicom's constructor": lambda: highdicom_seg(source.template(), mask),
        "write SEG": lambda: to_bytes(segmentation),
        "check SEG": checked(seg),
        "build SR": lambda: encode_sr(source, findings, PROVENANCE, report),
        "check SR": checked(sr),
        "  a contour": lambda: outline(whole_mask, findings.regions[0]),
        "build GSPS": lambda: encode_gsps(source, findings, PROVENANCE),
        "check GSPS": checked(gsps),
        "render the picture": lambda: render(fitting, findings, layout),
        "build SC rgb, picture included": lambda: encode_sc(source, fitting, findings, PROVENANCE, "rgb"),
        "  highdicom's constructor, whole picture": lambda: highdicom_sc(rendered),
        "build SC jpeg, picture included": lambda: encode_sc(source, fitting, findings, PROVENANCE, "jpeg"),
        "build the heat map, picture included": lambda: encode_heat(source, fitting, findings, PROVENANCE, "rgb"),
        "write SC rgb": lambda: to_bytes(capture),
        "check SC rgb": checked(rgb),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(RUNS + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if run:  # the first is the caches'
                times[name].append((time.process_time() - start) * 1000)
    table = Table("step", "median ms", "of all", title=f"{SHAPE[0]} x {SHAPE[1]}, {RUNS} runs")
    whole = statistics.median(times[ALL])
    for name, taken in times.items():
        table.add_row(name, f"{statistics.median(taken):.1f}", f"{statistics.median(taken) / whole:.2f}")
    Console().print(table)
    Console().print(
        {f"{variant.kind.value} {variant}": f"{len(data) / 1e6:.2f} MB" for variant, data in encoded.items()}
    )


def highdicom_seg(template: object, mask: np.ndarray) -> Segmentation:
    """Build a bare Segmentation, nothing of ours around it."""
    description = SegmentDescription(
        1, "x", CATEGORY, ABNORMALITY, "AUTOMATIC", algorithm(PROVENANCE), tracking_uid(PROVENANCE.job_key), "x"
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
