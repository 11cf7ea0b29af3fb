"""Reports read back by highdicom and compared with what they should say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    Comprehensive3DSR,
    ComprehensiveSR,
    MeasurementReport,
    PlanarROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from chexmodels.finding import Findings, Region
from chexnode.encode.caption import has_finding
from chexnode.encode.not_analysed import REASON, NotAnalysed
from chexnode.encode.provenance import Provenance, tracking_uid
from chexnode.encode.source import Source
from chexnode.encode.sr import FAILED, PRESENCE, SUMMARY, measurements, polyline
from chexnode.encode.verify import InvalidResult
from chexnode.vocabulary.variants import SegForm, SrForm


def check_sr(ds: Dataset, source: Source, findings: Findings, provenance: Provenance, variant: SrForm) -> None:
    """Compare a report ``ds``, as read from its file, with what it was made from; ``ds`` may be changed by that.

    Raises InvalidResult if it is not preliminary and unverified, if it refers to other instances than the source and,
    with a finding, the Segmentation of ``variant``, if there is not exactly one group for each region with the region's
    numbers and outline, or if an image without one is not said to be Absent, Present or Failed as it should be.
    """
    report, evidence = _read(ds)
    expected = {source.ds.SOPInstanceUID}
    regions = findings.regions if has_finding(findings) else ()
    if regions and variant.seg_profile is not None:
        expected.add(provenance.uid(SegForm(variant.seg_profile)))
    if evidence != expected:
        raise InvalidResult("its evidence is not what it was made from")
    outlined = [g for g in report.get_planar_roi_measurement_groups() if g.reference_type == codes.DCM.ImageRegion]
    tracked = [group.tracking_uid for group in outlined]
    if tracked != [tracking_uid(provenance.job_key, number) for number, _region in enumerate(regions, 1)]:
        raise InvalidResult("its groups do not track the regions")
    for group, region in zip(outlined, regions, strict=True):
        _check_region(group, source, findings, variant, region)
    _check_image_groups(report, findings)


def check_not_analysed(ds: Dataset, images: Sequence[NotAnalysed]) -> None:
    """Compare a report of what was not analysed, as read from its file, with ``images``; ``ds`` may be changed by that.

    Raises InvalidResult if it is not preliminary and unverified or does not give each image its reason, in their order.
    """
    report, _evidence = _read(ds)
    reasons = []
    for group in report.get_image_measurement_groups():
        (reason,) = group.get_qualitative_evaluations(REASON)
        reasons.append(reason.value)
    if reasons != [image.reason for image in images]:
        raise InvalidResult("its reasons are not those that it was made from")


def _read(ds: Dataset) -> tuple[MeasurementReport, set[str]]:
    """Return the content of a report and the SOP Instance UIDs of its evidence."""
    flags = (ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag)
    if flags != ("COMPLETE", "PRELIMINARY", "UNVERIFIED"):
        raise InvalidResult(f"its flags are {flags}")
    sr_class = Comprehensive3DSR if ds.SOPClassUID == Comprehensive3DSRStorage else ComprehensiveSR
    document = sr_class.from_dataset(ds, copy=False)
    if not isinstance(document.content, MeasurementReport):
        raise InvalidResult("it is no measurement report")
    return document.content, {str(uid) for _study, _series, uid, _class in document.get_evidence()}


def _check_region(
    group: PlanarROIMeasurementsAndQualitativeEvaluations,
    source: Source,
    findings: Findings,
    variant: SrForm,
    region: Region,
) -> None:
    said = [(each.name, each.value, each.unit) for each in group.get_measurements()]
    if said != [(each.name, each.value, each.unit) for each in measurements(source, region)]:
        raise InvalidResult("its measurements are not the region's")
    assert findings.mask is not None
    roi = group.roi
    if roi is None or not np.array_equal(roi.value, polyline(findings.mask, region, variant.outline)):
        raise InvalidResult("its outline is not the region's")
    reference = roi.ContentSequence[0].ReferencedSOPSequence[0]
    if (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) != (
        source.sop_class_uid,
        source.ds.SOPInstanceUID,
    ):
        raise InvalidResult("its outline is on another image")


def _check_image_groups(report: MeasurementReport, findings: Findings) -> None:
    said = [
        (evaluation.name, evaluation.value)
        for group in report.get_image_measurement_groups()
        for name in (PRESENCE, SUMMARY)
        for evaluation in group.get_qualitative_evaluations(name)
    ]
    if has_finding(findings) and findings.regions:
        expected = []
    elif findings.abnormal is None:
        expected = [(SUMMARY, FAILED)]
    else:
        expected = [(PRESENCE, codes.cid240.Present if findings.abnormal else codes.cid240.Absent)]
    if said != expected:
        raise InvalidResult("what it says of the image as a whole is not what was found")
