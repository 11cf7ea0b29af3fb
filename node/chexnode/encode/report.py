"""The shell of a report: a TID 1500 Measurement Report (PS3.16) around its groups, in the study that it is about.

Every report of ours is COMPLETE, PRELIMINARY and UNVERIFIED: all that the algorithm has to say, and no person has
confirmed it. Its words stand under Qualitative Evaluations, which is where TID 1500 has room for text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from highdicom import ContributingEquipment
from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from chexmodels.dicom.key_objects import KeyObject
from chexnode.encode.provenance import MANUFACTURER, set_times
from chexnode.encode.source import Source, identify
from chexnode.vocabulary.variants import SrClass

Group = PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations

_CLASSES: dict[SrClass, type[Comprehensive3DSR] | type[ComprehensiveSR]] = {
    "comprehensive3d": Comprehensive3DSR,
    "comprehensive": ComprehensiveSR,
}

#: Procedure Reported. The study's own code is in Procedure Code Sequence, as in every result; here it would be an error
#: to those that take CID 100 for the whole list, DicomSRValidator among them.
PROCEDURE = codes.cid100.ImagingProcedure
#: Document titles; CID 7021 may be extended. OHIF 3.13.2 opens what has the first as outlines on an image, and fails
#: over a group that has none; what has another title it shows in words, which is all that a report without outlines is.
MEASUREMENTS, WORDS = codes.cid7021.ImagingMeasurementReport, codes.DCM.ChestCADReport
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")


@dataclass(frozen=True, slots=True)
class Device:
    """Who reports: the node with a model, or the node itself."""

    uid: str
    model_name: str
    software_versions: Sequence[str]
    serial_number: str | None
    equipment: ContributingEquipment


@dataclass(frozen=True, slots=True)
class Naming:
    """The UIDs of a report and of its series, and what the series is called."""

    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
    description: str


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance of the study that a report refers to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


def report(
    source: Source,
    naming: Naming,
    device: Device,
    created_at: datetime,
    sr_class: SrClass,
    groups: Sequence[Group],
    words: Iterable[str],
    evidence: Sequence[Reference],
    library: ContainerContentItem | None = None,
    numbers: Sequence[NumContentItem | CodeContentItem] = (),
    predecessors: Sequence[KeyObject] = (),
) -> Dataset:
    """Return the report of ``groups``, at least one, about the study of ``source``; ``words`` go in line by line,
    and behind them ``numbers`` and codes of the image as a whole: OHIF looks for coordinates beside those of a group.

    ``evidence`` is every instance that the groups and the library refer to, at least one. ``predecessors``: the reports
    that this one takes the place of (Predecessor Documents Sequence, PS3.3 C.17.2).
    """
    observer = DeviceObserverIdentifyingAttributes(
        uid=device.uid,
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=device.model_name,
        serial_number=device.serial_number,
    )
    has_outlines = any(isinstance(group, PlanarROIMeasurementsAndQualitativeEvaluations) for group in groups)
    root = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(codes.cid270.Device, observer),
        ),
        procedure_reported=PROCEDURE,
        imaging_measurements=groups,
        title=MEASUREMENTS if has_outlines else WORDS,
    )[0]
    if library is not None:
        root.ContentSequence.insert(_index(root, codes.DCM.ImagingMeasurements), library)
    root.ContentSequence.append(_remarks(words, numbers))
    ds: Dataset = _CLASSES[sr_class](
        evidence=_instances(source, evidence),
        content=root,
        series_instance_uid=naming.series_instance_uid,
        series_number=naming.series_number,
        sop_instance_uid=naming.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        contributing_equipment=[device.equipment],
        specific_character_set="ISO_IR 192",
        series_description=naming.description,
        manufacturer_model_name=device.model_name,
        software_versions=device.software_versions,
        device_serial_number=device.serial_number,
    )
    first = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    first.ReferencedSOPClassUID = evidence[0].sop_class_uid
    if predecessors:
        ds.PredecessorDocumentsSequence = _documents(predecessors)
    identify(ds, source)
    set_times(ds, created_at)
    return ds


def _documents(named: Sequence[KeyObject]) -> list[Dataset]:
    """Return ``named`` as SOP Instance References by study and series (PS3.3 table C.17-3)."""
    by_series: dict[tuple[str, str], list[Dataset]] = {}
    for one in named:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        by_series.setdefault((one.study_instance_uid, one.series_instance_uid), []).append(item)
    by_study: dict[str, list[Dataset]] = {}
    for (study, series), items in by_series.items():
        of_series = Dataset()
        of_series.SeriesInstanceUID, of_series.ReferencedSOPSequence = series, items
        by_study.setdefault(study, []).append(of_series)
    documents = []
    for study, of_study in by_study.items():
        document = Dataset()
        document.StudyInstanceUID, document.ReferencedSeriesSequence = study, of_study
        documents.append(document)
    return documents


def _remarks(words: Iterable[str], numbers: Sequence[NumContentItem | CodeContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(
        [*(TextContentItem(codes.DCM.Comment, line, RelationshipTypeValues.CONTAINS) for line in words), *numbers]
    )
    return container


def _index(root: Dataset, name: Code) -> int:
    return next(n for n, item in enumerate(root.ContentSequence) if item.name == name)


def _instances(source: Source, evidence: Sequence[Reference]) -> list[Dataset]:
    """Return the blank template as each instance of ``evidence``, which is all that highdicom asks of them.

    The first keeps the template's own SOP class: highdicom looks up what to copy by it, and knows no private one.
    """
    instances: list[Dataset] = []
    for reference in evidence:
        ds = source.template()
        # Its elements are the source's own: they are replaced, not changed.
        sop_class_uid = reference.sop_class_uid if instances else ds.SOPClassUID
        del ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, reference.sop_instance_uid
        ds.SeriesInstanceUID = reference.series_instance_uid
        instances.append(ds)
    return instances
