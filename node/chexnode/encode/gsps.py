"""The findings as a Grayscale Softcopy Presentation State (PS3.3 A.33.1): outlines that a viewer lays over the image.

It shows the radiograph as the radiograph's own header does, shutters and overlays included (a presentation state
replaces that, PS3.4 N.2), with an
outline around each region, its number and score beside it, and the words of the Secondary Capture above and below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom import PresentationLUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from pydicom.dataset import Dataset

from chexmodels.finding import Findings, Region
from chexnode.encode.caption import AMBER, COLOUR, WHITE, Line, caption, has_finding, numbered
from chexnode.encode.contours import outline, topmost
from chexnode.encode.greyscale import modality_transformation, voi_transformations
from chexnode.encode.provenance import (
    DISCLAIMER,
    MANUFACTURER,
    Provenance,
    equipment,
    long_string,
    software_versions,
    stamp,
    tracking_uid,
)
from chexnode.encode.source import Source, acquisition, identify
from chexnode.vocabulary.notes import Note
from chexnode.vocabulary.variants import GspsForm

#: Height of a line of words: as a share of the image's longest side, and of the displayed area's height.
_LINE = 1 / 40
#: Room for a region's number and score, in lines' heights.
_LABEL_WIDTH = 5


@dataclass(frozen=True, slots=True)
class _Layer:
    """A graphic layer (PS3.3 C.10.7); later ones are drawn over earlier ones."""

    name: str
    description: str
    colour: tuple[int, int, int]


_OUTLINES = _Layer("AI_OUTLINES", "Outlines of regions found by an algorithm", COLOUR)
_LABELS = _Layer("AI_LABELS", "Number and peak score of each region", AMBER)
_BANNER = _Layer("AI_BANNER", "What this is, and what it is not for", AMBER)
_OVERLAYS = _Layer("SOURCE_OVERLAYS", "Overlays of the radiograph itself", WHITE)
_LAYERS = (_OUTLINES, _LABELS, _BANNER)


def encode_gsps(source: Source, findings: Findings, provenance: Provenance) -> Dataset:
    """Return the presentation state of ``findings``, whose mask and regions are in source pixels.

    Raises ValueError if there is no region, or the mask is not of the source's size: an image without a finding has
    no presentation state, its answer is the Secondary Capture.
    """
    mask = findings.mask
    if mask is None or not has_finding(findings) or not findings.regions:
        raise ValueError("there is no presentation state of no region")
    if mask.shape != (source.rows, source.columns):
        raise ValueError(f"mask is {mask.shape}, the source image {(source.rows, source.columns)}")
    template = source.template()
    template.SamplesPerPixel = 1
    used = (_OVERLAYS, *_LAYERS) if source.overlays else _LAYERS
    layers = {layer: _graphic_layer(order, layer) for order, layer in enumerate(used, 1)}
    outlines = [
        GraphicObject(
            "POLYLINE",
            outline(mask, region),
            "PIXEL",
            tracking_id=f"Abnormality {number}",
            tracking_uid=tracking_uid(provenance.job_key, number),
        )
        for number, region in enumerate(findings.regions, 1)
    ]
    labels = [
        _label(source, number, region, topmost(mask, region)) for number, region in enumerate(findings.regions, 1)
    ]
    words = caption(findings, provenance)
    banner = [*_lines(words.above, 0.0), *_lines(words.below, 1 - _LINE * len(words.below))]
    tone = source.greyscale
    ds: Dataset = GrayscaleSoftcopyPresentationState(
        referenced_images=[template],
        series_instance_uid=provenance.uid(GspsForm(), "series"),
        series_number=source.numbered(provenance.series.gsps.number),
        sop_instance_uid=provenance.uid(GspsForm()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=long_string(provenance.model_name),
        software_versions=software_versions(provenance),  # type: ignore[arg-type]  # it means any number of them
        device_serial_number=long_string(provenance.model_digest),
        content_label="AI_OUTLINES",
        content_description=DISCLAIMER,
        content_creator_name=f"{MANUFACTURER}^",
        graphic_layers=list(layers.values()),
        graphic_annotations=[
            GraphicAnnotation([template], layers[_OUTLINES], graphic_objects=outlines),
            GraphicAnnotation([template], layers[_LABELS], text_objects=labels),
            GraphicAnnotation([template], layers[_BANNER], text_objects=banner),
        ],
        modality_lut_transformation=modality_transformation(tone.modality),
        voi_lut_transformations=voi_transformations(tone.voi),
        # The library's own choice, IDENTITY, shows MONOCHROME1 as a negative: a presentation state hears of nothing
        # else that inverts (PS3.3 C.11.6.1.2).
        presentation_lut_transformation=PresentationLUTTransformation("INVERSE" if tone.inverse else "IDENTITY"),
        contributing_equipment=[*acquisition(source), equipment(provenance)],
        series_description=provenance.series_description(provenance.series.gsps, source.mark),
        specific_character_set="ISO_IR 192",
    )
    (area,) = ds.DisplayedAreaSelectionSequence
    area.PresentationPixelAspectRatio = list(source.pixel_aspect_ratio)
    del area.PixelOriginInterpretation  # of whole slide images
    for group in source.overlays:  # a presentation state shows only those that it activates (PS3.3 C.11.7)
        ds.add_new(group << 16 | 0x1001, "CS", _OVERLAYS.name)
    if Note.SHUTTER_APPLIED in findings.notes:
        ds.update(source.shutter)
    ds.BodyPartExamined = "CHEST"  # else Laterality is asked for (PS3.3 C.7.3.1)
    identify(ds, source)
    stamp(ds, provenance)
    return ds


def _graphic_layer(order: int, layer: _Layer) -> GraphicLayer:
    item = GraphicLayer(layer.name, order, layer.description, CIELabColor.from_rgb(*layer.colour))
    item.GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF  # where there are no colours: white
    return item


def _label(source: Source, number: int, region: Region, column: int) -> TextObject:
    """Put the number above the region's highest point, at ``column``, or below it where there is no room."""
    line = max(source.rows, source.columns) * _LINE
    height, width = min(line, source.rows), min(line * _LABEL_WIDTH, source.columns)
    left = max(0, min(column - width / 2, source.columns - width))
    top = region.box.y0 - height if region.box.y0 >= height else min(region.box.y1, source.rows - height)
    return TextObject(
        numbered(number, region),
        "PIXEL",
        bounding_box=(left, top, left + width, top + height),
        text_justification="LEFT",
    )


def _lines(lines: Sequence[Line], top: float) -> list[TextObject]:
    """One text object a line: few viewers break lines. Down from ``top``, a share of the displayed area's height."""
    return [
        TextObject(
            line.text[:1024],  # ST
            "DISPLAY",
            bounding_box=(0.0, top + n * _LINE, 1.0, min(1.0, top + (n + 1) * _LINE)),
            text_justification="LEFT",
        )
        for n, line in enumerate(lines)
    ]
