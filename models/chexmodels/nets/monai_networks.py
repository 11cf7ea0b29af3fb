"""Networks of ``monai.networks.nets`` that others trained, by name and with plain values for arguments.

Nothing of a stranger's is executed as Python.
"""

from __future__ import annotations

import json
from typing import Any

import monai.networks.nets
from torch import Tensor, nn

from chexmodels.nets.adopted import SINGLE, Adopted

NETS = "monai.networks.nets"


class MonaiNetwork(Adopted):
    """A network of ``monai.networks.nets``. ``network`` is its definition as JSON: ``_target_`` and plain arguments.

    Raises ``ValueError`` for any other class, and for a definition with an expression or a reference.
    """

    def __init__(self, network: str, **mapping: Any) -> None:
        super().__init__(**mapping)
        self.network = build(json.loads(network))

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        answer = self.network(image)
        if isinstance(answer, tuple | list):  # with deep supervision the first is the finest
            answer = answer[0]
        return {SINGLE: answer}


def build(definition: dict[str, Any]) -> nn.Module:
    """The network of a MONAI definition; raises ``ValueError`` for what is not data."""
    target = str(definition.get("_target_", ""))
    name = target.removeprefix(f"{NETS}.").rpartition(".")[2]
    inside = "." not in target or target.startswith(f"{NETS}.")
    made = getattr(monai.networks.nets, name, None)
    if not inside or not isinstance(made, type) or not issubclass(made, nn.Module):
        raise ValueError(f"network: {target!r} is no network of {NETS}")
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    if faults := [text for text in _texts(arguments) if text.startswith(("$", "@", "%"))]:
        raise ValueError(f"network: {faults[0]!r} is an expression or a reference, not a value")
    return made(**arguments)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]
