"""Training side of ChexNode: data sets, recipes, evaluation and export."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``chextrain``: says in one sentence, with exit code 3, which packages of the extra are missing."""
    import sys
    from importlib.util import find_spec

    needed = {"torch": "torch", "monai": "monai", "lightning": "lightning", "matplotlib": "matplotlib"}
    needed |= {"sklearn": "scikit-learn"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        print(f"chextrain: {', '.join(missing)} not installed: pip install 'chexnode[training]'", file=sys.stderr)
        raise SystemExit(3)
    from chextrain.cli import main as run

    run()
