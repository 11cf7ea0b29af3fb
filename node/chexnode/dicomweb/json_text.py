"""The DICOM JSON models of instances, one after the other, as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import ExplicitVRBigEndian

from chexmodels.dicom import file_meta as group_2
from chexmodels.dicom.elements import ITEM_END, SEQUENCE_END, UNDEFINED, Buffer, Walk
from chexmodels.dicom.part10 import ReadLimits
from chexmodels.dicom.passages import Passage, Passages, dataset_apart
from chexmodels.dicom.transfer_syntaxes import DEFLATED, Encoding, encoding_of
from chexnode.dicomweb.json_model import (
    BulkUri,
    Json,
    model_of,
    model_of_plain,
    pixel_data,
    to_json,
    vr_of,
)

#: Bits Allocated of images of bytes.
_OF_BYTES = b'"00280100":{"vr":"US","Value":[8]}'


class ModelTexts:
    """Writes the models of files one after the other: that of ``model_of``, and Pixel Data.

    What an instance has in common with the one before it is converted once. Not thread safe.
    """

    def __init__(self, limits: ReadLimits, bulk_uri: BulkUri) -> None:
        self._passages = Passages(limits.max_elements, limits.max_nesting)
        self._bulk_uri = bulk_uri
        self._decisive: list[bytes] = []
        """Of the elements that others depend on, in whose light the texts that passages hold were made."""

    def written(self, content: Buffer) -> bytes | None:
        """The model of one DICOM file in JSON.

        None where the file has to be read by :func:`chexmodels.dicom.part10.read`: it is deflated, in big endian, or
        breaks a rule. Raises DecodeError where it is no DICOM file.
        """
        found = group_2.span(content, is_all=True)
        assert found is not None
        syntax = group_2.transfer_syntax(bytes(content[found[0] : found[1]]))
        if not syntax or syntax in DEFLATED or syntax == ExplicitVRBigEndian:
            return None
        encoding = encoding_of(syntax)
        header = self._passages.header(content, found[1], encoding)
        if header is None:
            return None
        passages = header.passages
        decisive = [one for one in passages if one.is_decisive]
        same = [one.encoded for one in decisive]
        if same != self._decisive:
            for one in passages:
                one.made = None
            self._decisive = same
        if new := [one for one in passages if one.made is None]:
            self._convert(new, decisive, encoding)
        texts = [one.made for one in passages if one.made]
        if header.has_pixels:
            pixels = pixel_data(self._bulk_uri, is_implicit=encoding.implicit, is_of_bytes=_OF_BYTES in texts)
            texts.append(_text(pixels))
        return b"{" + b",".join(texts) + b"}"

    def _convert(self, new: Sequence[Passage], decisive: Sequence[Passage], encoding: Encoding) -> None:
        """Make the texts of ``new``, empty where no model has the element."""
        others: list[Passage] = []
        for one in new:
            model = self._plain(one, encoding)
            if model is not None:
                one.made = _text({f"{one.tag:08X}": model})
            else:
                others.append(one)
        if others:
            among = [one for one in decisive if one not in others]
            models = model_of(dataset_apart([*among, *others], encoding), self._bulk_uri)
            for one in others:
                key = f"{one.tag:08X}"
                one.made = _text({key: models[key]}) if key in models else b""

    def _plain(self, one: Passage, encoding: Encoding) -> Json | None:
        """The model of an element that means the same in every data set; None where it is none of these."""
        path = f"{one.tag:08X}"
        if not one.tag & 0xFFFF:
            return None
        if one.vr == "SQ":
            items = _Items(one.encoded, encoding, self._bulk_uri)
            try:
                return items.sequence(one.start, len(one.encoded), path, is_delimited=one.is_undefined)[0]
            except _NotPlain:
                return None
        return model_of_plain(one.tag, one.vr or vr_of(one.tag), one.value, self._bulk_uri, path)


class _NotPlain(Exception):
    """An element that :func:`model_of_plain` has no model of, or that is out of order."""


class _Items:
    """Makes the models of sequences in Explicit VR, which were walked and are whole."""

    def __init__(self, encoded: bytes, encoding: Encoding, bulk_uri: BulkUri) -> None:
        self._encoded, self._bulk_uri = encoded, bulk_uri
        self._head = Walk(encoded, encoding, 0, 0).head

    def sequence(self, at: int, end: int, path: str, *, is_delimited: bool) -> tuple[Json, int]:
        """The model of the sequence whose items start at ``at``, and where it ends. Raises _NotPlain."""
        models: list[Json] = []
        while at < end:
            tag, _, at, length = self._head(at, end, False)
            if is_delimited and tag == SEQUENCE_END:
                break
            last = end if length == UNDEFINED else at + length
            model, at = self._item(at, last, f"{path}/{len(models)}/", is_delimited=length == UNDEFINED)
            models.append(model)
        return {"vr": "SQ", "Value": models} if models else {"vr": "SQ"}, at

    def _item(self, at: int, end: int, prefix: str, *, is_delimited: bool) -> tuple[Json, int]:
        model: Json = {}
        before = 0x0002FFFF
        while at < end:
            tag, vr, start, length = self._head(at, end, False)
            if is_delimited and tag == ITEM_END:
                return model, start
            if tag <= before or not tag & 0xFFFF:
                raise _NotPlain
            before, path = tag, f"{prefix}{tag:08X}"
            if vr == "SQ":
                last = end if length == UNDEFINED else start + length
                found: Json | None
                found, at = self.sequence(start, last, path, is_delimited=length == UNDEFINED)
            else:
                at = start + length
                found = model_of_plain(tag, vr, self._encoded[start:at], self._bulk_uri, path)
            if found is None:
                raise _NotPlain
            model[f"{tag:08X}"] = found
        return model, at


def _text(model: Json) -> bytes:
    """The text of a model without its braces."""
    return to_json(model)[1:-1]
