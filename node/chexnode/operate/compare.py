"""Two models compared, by the names that the settings or the ledger have for them."""

from __future__ import annotations

from collections.abc import Callable

from chexnode.ledger.comparisons import compare as add_up
from chexnode.node import Node
from chexnode.vocabulary.errors import Usage
from chexnode.vocabulary.filters import Filter
from chexnode.vocabulary.records import JobSpec
from chexnode.vocabulary.reports import Comparison


def analysis(node: Node, model: str) -> JobSpec:
    """The analysis that ``model`` means: a name of the settings, or a name and version that the ledger knows.

    Raises Usage.
    """
    if model in node.offered:
        return node.offered[model]
    known = node.ledger.comparisons.analyses(model)
    if not known:
        raise Usage(f"no model {model!r} in the settings ({', '.join(node.offered)}) or among the jobs")
    return known[0]


def compare(node: Node, a: str, b: str, wanted: Filter, link: Callable[[str], str | None]) -> Comparison:
    """How far two models agree on the images that both have answered; see :class:`Comparison`. Raises Usage."""
    of_a, of_b = analysis(node, a), analysis(node, b)
    if of_a == of_b:
        raise Usage(f"{a} and {b} are the same analysis")
    return add_up(_title(a, of_a), _title(b, of_b), node.ledger.comparisons.pairs(of_a, of_b, wanted), link)


def _title(name: str, spec: JobSpec) -> str:
    return spec.model if name == spec.model else f"{name} ({spec.model})"
