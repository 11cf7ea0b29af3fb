"""All kinds of results of one image: one identity, one set of tracking UIDs, and nothing wrong is let through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from chexmodels.finding import Box, Findings, Region
from chexnode.deliver.routing import contexts, routes, variants, wanted
from chexnode.encode import objects
from chexnode.encode import verify as rules
from chexnode.encode.attributes import OPTIONAL, TYPE_2
from chexnode.encode.objects import Encoded, encode, to_bytes
from chexnode.encode.provenance import MANUFACTURER, Provenance, tracking_uid
from chexnode.encode.source import sanitise
from chexnode.encode.verify import InvalidResult, verify
from chexnode.settings.destination import DestinationSettings
from chexnode.settings.series import SeriesSettings
from chexnode.vocabulary.supersession import Supersession
from chexnode.vocabulary.variants import FORMS, KoForm, NotAnalysedForm, ResultForm, ResultKind, SrForm, Variant
from support.radiographs import PROVENANCE, lesion, parsed, picture, radiograph

SEG, SC, SR, GSPS = ResultKind.SEG, ResultKind.SC, ResultKind.SR, ResultKind.GSPS
ONE_OF_EACH = (
    Variant.parse(SEG, "planar"),
    Variant.parse(SC, "rgb"),
    Variant.parse(SR, "comprehensive3d-contour-planar"),
    Variant.parse(GSPS, "outline"),
)
FORM = {SEG: "planar", SC: "rgb", SR: "comprehensive3d-box-planar", GSPS: "outline"}


def encoded(
    wanted: tuple[Variant, ...] = ONE_OF_EACH,
    findings: Findings | None = None,
    provenance: Provenance = PROVENANCE,
) -> list[Encoded]:
    source = sanitise(parsed(radiograph("DX")))
    shape = (source.rows, source.columns)
    return encode(source, picture(shape), findings or lesion(shape), provenance, wanted)


def datasets(results: list[Encoded]) -> list[Dataset]:
    return [dcmread(BytesIO(each.data)) for each in results]


def tracked(ds: Dataset) -> Iterator[str]:
    """Every Tracking UID in ``ds``: its own attribute, and the UID content items of a report."""
    for element in ds.iterall():
        if element.keyword == "TrackingUID":
            yield str(element.value)
        elif element.VR == "SQ":
            for item in element.value:
                name = item.get("ConceptNameCodeSequence")
                if item.get("ValueType") == "UIDREF" and name[0].CodeValue == "112040":
                    yield str(item.UID)


def test_all_kinds_track_the_same_regions() -> None:
    seg, sc, sr, gsps = datasets(encoded(findings=two_regions()))
    of_regions = {tracking_uid(PROVENANCE.job_key, number) for number in (1, 2)}
    assert set(tracked(seg)) == {tracking_uid(PROVENANCE.job_key)}
    assert set(tracked(sr)) == {tracking_uid(PROVENANCE.job_key)} | of_regions
    assert set(tracked(gsps)) == of_regions
    assert set(tracked(sc)) == set()
    assert not set(tracked(sr)) & set(tracked(datasets(encoded(provenance=other_job()))[2]))


def two_regions() -> Findings:
    """A lesion and one pixel."""
    one = lesion((96, 80))
    assert one.mask is not None
    mask = one.mask.copy()
    assert not mask[90:92, 2:5].any()
    mask[90, 3] = True
    pixel = Region(Box(3, 90, 4, 91), area=1, peak=0.6, mean=0.6)
    return dataclasses.replace(one, mask=mask, regions=(*one.regions, pixel))


def other_job() -> Provenance:
    return dataclasses.replace(PROVENANCE, job_key="ab" * 32)


def test_all_kinds_are_of_one_study_and_each_of_its_own_series() -> None:
    header = radiograph("DX")
    found = datasets(encoded())
    for keyword in ("StudyInstanceUID", *TYPE_2, *(k for k in OPTIONAL if k in header)):
        assert len({str(ds[keyword].value) for ds in found} | {str(header[keyword].value)}) == 1, keyword
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"):
        assert len({ds[keyword].value for ds in found}) == len(found), keyword


def test_all_kinds_name_the_model_its_version_and_its_digest() -> None:
    for ds in datasets(encoded()):
        (ours,) = [item for item in ds.ContributingEquipmentSequence if item.Manufacturer == MANUFACTURER]
        assert ours.ManufacturerModelName == PROVENANCE.model_name
        assert ours.SoftwareVersions[1] == f"{PROVENANCE.model_name} {PROVENANCE.model_version}"
        assert PROVENANCE.model_digest in ours.ContributionDescription
        assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (ds.Manufacturer, ds.ManufacturerModelName) == (MANUFACTURER, PROVENANCE.model_name)
        assert ds.DeviceSerialNumber == PROVENANCE.model_digest[:64]


def test_the_report_points_to_the_segmentation_of_its_destination() -> None:
    for label in ("", "RESEARCH"):
        settings = DestinationSettings.model_validate(
            {"name": "x", "kind": "folder", "path": "/x", "seg_profile": "full", "label": label}
        )
        by_kind = {each.variant.kind: each for each in encoded(wanted(settings))}
        report = dcmread(BytesIO(by_kind[SR].data))
        referred = {
            instance.ReferencedSOPInstanceUID
            for study in report.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for instance in series.ReferencedSOPSequence
        }
        assert referred == {"1.2.826.0.1.3680043.8.498.3", by_kind[SEG].uid}


def test_a_label_marks_every_object_and_makes_it_another() -> None:
    plain = encoded()
    marked = encoded(tuple(dataclasses.replace(variant, label="RESEARCH") for variant in ONE_OF_EACH))
    assert not {each.uid for each in plain} & {each.uid for each in marked}
    for before, after in zip(datasets(plain), datasets(marked), strict=True):
        assert after.SeriesDescription == f"RESEARCH {before.SeriesDescription}"
        assert after.SeriesInstanceUID != before.SeriesInstanceUID
        assert set(tracked(after)) == set(tracked(before))


def test_series_are_named_by_the_settings_and_never_too_long() -> None:
    longest = "x" * 40
    names = SeriesSettings(
        seg_number=1, seg_description=longest, sr_number=2, sr_description="Report", sc_number=3, gsps_number=4
    ).names
    named = datasets(encoded(provenance=dataclasses.replace(PROVENANCE, series=names)))
    assert [ds.SeriesNumber for ds in named] == [1, 3, 2, 4]
    assert [ds.SeriesDescription for ds in named[:3]] == [longest, names.sc.description, "Report"]
    source = sanitise(parsed(radiograph("CR", ImagerPixelSpacing=None)))
    shape = (source.rows, source.columns)
    provenance = dataclasses.replace(PROVENANCE, series=names)
    (result,) = encode(source, picture(shape), lesion(shape), provenance, [Variant.parse(SEG, "planar@LABEL-OF-12.")])
    description = dcmread(BytesIO(result.data)).SeriesDescription
    assert len(description) == 64
    assert description.startswith("LABEL-OF-12. x")
    assert description.endswith("x - unscaled")


@pytest.mark.parametrize(("abnormal", "kinds"), [(True, [SEG, SC, SR, GSPS]), (False, [SC, SR]), (None, [SC, SR])])
def test_without_a_finding_nothing_is_outlined(abnormal: bool | None, kinds: list[ResultKind]) -> None:
    shape = (96, 80)
    findings = lesion(shape, abnormal)
    if not abnormal:
        findings = dataclasses.replace(findings, regions=(), mask=None if abnormal is None else findings.mask)
    assert [each.variant.kind for each in encoded(findings=findings)] == kinds


@pytest.mark.parametrize("form", [form for form in FORMS if isinstance(form, SrForm)], ids=str)
def test_routing_asks_for_reports_that_exist(form: SrForm) -> None:
    settings = {"sr_class": form.sr_class, "sr_outline": form.outline, "results": ["sr"]}
    if form.seg_profile is not None:
        settings |= {"results": ["sr", "seg"], "seg_profile": form.seg_profile}
    destination = DestinationSettings.model_validate({"name": "x", "kind": "folder", "path": Path("/x")} | settings)
    assert variants(routes([destination], "A", True))[0] == Variant(form)


@pytest.mark.parametrize("sc_encoding", ["rgb", "jpeg"])
@pytest.mark.parametrize("sr_class", ["comprehensive3d", "comprehensive"])
def test_what_is_proposed_to_a_destination_is_what_is_stored_for_it(sc_encoding: str, sr_class: str) -> None:
    destination = DestinationSettings.model_validate(
        {
            "name": "x", "kind": "folder", "path": "/x", "results": ["seg", "sc", "sr", "gsps"], "label": "LAB",
            "sc_encoding": sc_encoding, "sr_class": sr_class, "heat_map": True,
        }
    )  # fmt: skip
    findings = dataclasses.replace(lesion((96, 80)), heat=np.full((96, 80), 0.5, np.float32))
    stored = datasets(encoded(wanted(destination), findings))
    assert len(stored) == 5
    proposed = {context for context in contexts(destination) if context[0] != KeyObjectSelectionDocumentStorage}
    assert {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in stored} == proposed


@pytest.mark.parametrize("form", [NotAnalysedForm(), KoForm(Supersession.ERASED)], ids=str)
def test_what_no_image_has_is_a_bug(form: ResultForm) -> None:
    with pytest.raises(ValueError, match=f"no image has a {form.kind} of form {form}"):
        encoded((Variant(form),))


def damage(ds: Dataset, how: str) -> None:
    """Make a result wrong in one way."""
    if how == "mask":
        ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]
    elif how == "short":
        ds.PixelData = ds.PixelData[:-2]
    elif how == "study":
        ds.StudyInstanceUID = "1.2.3"
    elif how == "patient":
        ds.PatientID = "somebody else"
    elif how == "instance":
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    elif how == "model":
        ds.ContributingEquipmentSequence = [
            item for item in ds.ContributingEquipmentSequence if item.Manufacturer != MANUFACTURER
        ]
    elif how == "reference":
        if "CurrentRequestedProcedureEvidenceSequence" in ds:
            series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
            series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        else:
            series = ds.ReferencedSeriesSequence[0]
            instances = series.get("ReferencedInstanceSequence") or series.ReferencedImageSequence
            instances[0].ReferencedSOPInstanceUID = "1.2.3"
    elif how == "no value":
        ds.SeriesInstanceUID = ""
    else:
        delattr(ds, how)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (SEG, "mask"),
        (SEG, "short"),
        *((kind, how) for kind in FORM for how in ("study", "patient", "instance", "reference", "model", "no value")),
        *((kind, how) for kind in FORM for how in ("PatientName", "Modality", "InstanceNumber")),
        *((kind, "PixelData") for kind in (SEG, SC)),
        (SEG, "SegmentSequence"),
        (SEG, "PerFrameFunctionalGroupsSequence"),
        (SR, "CompletionFlag"),
    ],
)
def test_a_wrong_result_is_not_let_through(kind: ResultKind, how: str) -> None:
    variant = Variant.parse(kind, FORM[kind])
    (result,) = encoded((variant,))
    ds = dcmread(BytesIO(result.data))
    source, findings = sanitise(parsed(radiograph("DX"))), lesion((96, 80))
    verify(result.data, source, findings, PROVENANCE, variant.form)
    damage(ds, how)
    with pytest.raises(InvalidResult):
        verify(to_bytes(ds), source, findings, PROVENANCE, variant.form)


def test_what_is_wrong_names_the_object_and_the_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    build = objects._build

    def forget(*args: object) -> Dataset | None:
        ds = build(*args)  # type: ignore[arg-type]
        assert ds is not None
        del ds.ContentLabel, ds.ContentDescription
        return ds

    monkeypatch.setattr(objects, "_build", forget)
    with pytest.raises(InvalidResult, match=r"^seg planar: ContentLabel \(Type 1\) is absent, and 1 more$"):
        encoded((Variant.parse(SEG, "planar"),))


@pytest.mark.parametrize("kind", FORM)
def test_every_required_attribute_is_missed(kind: ResultKind) -> None:
    """Whatever of Type 1 or 2 stands at the top level of an object, its absence is found; so is an empty Type 1."""
    (ds,) = datasets(encoded((Variant.parse(kind, FORM[kind]),)))
    required: dict[str, str] = {}
    for module in rules.modules(ds.SOPClassUID):
        if module.usage == "M" and module.name != "sr-document-content":
            for keyword, rule in rules.attributes(module.name).items():
                if rule.type in ("1", "2") and keyword not in OPTIONAL:
                    required[keyword] = min(rule.type, required.get(keyword, "2"))  # the stricter module
    assert len(required) > 20
    assert rules.faults(ds) == []
    for keyword, type_ in required.items():
        element = ds[keyword]
        del ds[keyword]
        assert f"{keyword} (Type {type_}) is absent" in rules.faults(ds)
        ds.add_new(element.tag, element.VR, [] if element.VR == "SQ" else "")
        assert (f"{keyword} (Type 1) is empty" in rules.faults(ds)) == (type_ == "1"), keyword
        ds[keyword] = element


def test_items_of_sequences_are_looked_into_and_copied_ones_are_not() -> None:
    (ds,) = datasets(encoded((Variant.parse(SEG, "planar"),)))
    del ds.SegmentSequence[0].SegmentLabel
    del ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning
    assert sorted(rules.faults(ds)) == [
        "SegmentSequence.SegmentLabel (Type 1) is absent",
        "SegmentSequence.SegmentedPropertyTypeCodeSequence.CodeMeaning (Type 1) is absent",
    ]
    (ds,) = datasets(encoded((Variant.parse(SC, "rgb"),)))
    ds.ProcedureCodeSequence = [Dataset()]
    assert rules.faults(ds) == []
