"""Section ``model``: what analyses the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from chexnode.settings.base import AETitle, Section


class ModelSettings(Section):
    """What analyses the images.

    One model as `[model]`; or several as `[[model]]`, of which one delivers and the others are tried on the same
    images: their answers are kept and shown, and go nowhere.
    """

    name: str = Field(
        "main", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Name in commands; those of several models differ."
    )
    bundle: str = Field("chexnomaly", description="Name of a shipped bundle, or the path of a bundle folder.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    engine: Literal["pytorch", "onnx"] = Field(
        "pytorch",
        description="What runs the network: pytorch, or onnx (ONNX Runtime, of the extra onnx), "
        "which on a CPU is 1.5 to 2 times as fast and answers the same within rounding.",
    )
    operating_point: Literal["second_reader", "triage"] = Field(
        "second_reader", description="Which of the bundle's operating points decides abnormal."
    )
    mode: Literal["deliver", "shadow"] = Field(
        "deliver", description="Its results are delivered, or it is only tried: a shadow."
    )
    peers: tuple[AETitle, ...] = Field((), description="Only images from these callers (shadow); empty: all.")
    rules: tuple[str, ...] = Field((), description="Only images that a rule of these names decides on (shadow).")


def delivering_and_shadows(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` of a settings file with its list ``[[model]]`` taken apart: what delivers, and ``shadow``.

    Raises ValueError unless exactly one of them delivers.
    """
    models = content.get("model")
    if not isinstance(models, list):
        return dict(content)
    by_mode = {
        is_shadow: [m for m in models if (m.get("mode") == "shadow") == is_shadow] for is_shadow in (False, True)
    }
    if len(by_mode[False]) != 1:
        raise ValueError(f"model: {len(by_mode[False])} of {len(models)} have mode deliver; exactly one must")
    return {**content, "model": by_mode[False][0], "shadow": by_mode[True]}
