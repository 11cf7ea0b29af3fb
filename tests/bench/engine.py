"""An image through a bundle by PyTorch, PyTorch compiled, ONNX Runtime and OpenVINO, each in processes of its own.

    python tests/bench/engine.py [--bundle chexnomaly] [--batch 1] [--threads 2] [--rounds 9] [--turns 3]

In one process they would wait for each other's threads, which stay awake for a while. The engines take turns; medians
over all turns in milliseconds an image, as ratios to PyTorch's (above 1 is faster), and how far the map is from
PyTorch's. The clock is the wall's, so nothing else should run. An engine that is not installed, or that does not take
the network, is said to be so; OpenVINO is no dependency of the project's (``pip install openvino``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from chexmodels.bundle import find, read_card
from chexmodels.registry import Loaded, load

Images = NDArray[np.float32]
Engine = Callable[[Images], Images]
"""Images ``(B,1,S,S)`` float32 in [0,1] -> maps of the same shape."""


def pytorch(network: nn.Module) -> Engine:
    """The network as the node runs it."""

    @torch.inference_mode()
    def run(images: Images) -> Images:
        answer: Images = network(torch.from_numpy(images)).numpy()
        return answer

    return run


def exported(network: nn.Module, images: Images) -> Path:
    """The network as an ONNX graph for batches as large as ``images``."""
    path = Path(tempfile.mkdtemp()) / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.from_numpy(images),), str(path), input_names=["image"], dynamo=False)
    return path


def onnx_runtime(graph: Path, threads: int) -> Engine:
    """ONNX Runtime with as many threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> Images:
        (answer,) = session.run(None, {"image": images})
        return np.asarray(answer)

    return run


def openvino(graph: Path, threads: int) -> Engine:
    """OpenVINO in float32 with as many threads."""
    import openvino as ov  # type: ignore[import-not-found,unused-ignore]

    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(str(graph), "CPU", settings)

    def run(images: Images) -> Images:
        answer: Images = compiled([images])[0]
        return answer

    return run


def made(name: str, network: nn.Module, images: Images, threads: int) -> Engine:
    """The engine of this name; raises whatever it raises."""
    if name == "PyTorch":
        return pytorch(network)
    if name == "PyTorch, channels last":
        return pytorch(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    if name == "torch.compile":
        return pytorch(torch.compile(network))  # type: ignore[arg-type]
    return (onnx_runtime if name == "ONNX Runtime" else openvino)(exported(network, images), threads)


ENGINES = ("PyTorch", "PyTorch, channels last", "torch.compile", "ONNX Runtime", "OpenVINO")


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round of the engine ``given.one``, and the largest difference of a logit; or its error."""
    torch.set_num_threads(given.threads)
    model = load(find(given.bundle))
    assert isinstance(model, Loaded)
    side = model.card.size
    images = np.random.default_rng(0).random((given.batch, 1, side, side), dtype=np.float32)
    expected = pytorch(model.network)(images)
    try:
        engine = made(given.one, model.network, images, given.threads)
        difference = float(np.abs(engine(images) - expected).max())  # and compiles
    except Exception as error:  # whatever an engine raises, the others are measured
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"}
    seconds = []
    for _ in range(given.rounds):
        start = time.perf_counter()
        engine(images)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "difference": difference}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bundle", default="chexnomaly")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
    for _ in range(given.turns):
        for name, turns in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            turns.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        name: statistics.median(second for turn in turns for second in turn["seconds"])
        for name, turns in found.items()
        if not any("error" in turn for turn in turns)
    }
    table = Table("engine", "ms an image", "faster", "largest difference of a logit")
    for name, turns in found.items():
        if name not in medians:
            table.add_row(name, "-", "-", next(turn["error"] for turn in turns if "error" in turn))
            continue
        faster = medians["PyTorch"] / medians[name]
        difference = max(turn["difference"] for turn in turns)
        table.add_row(name, f"{1000 * medians[name] / given.batch:.0f}", f"{faster:.2f}", f"{difference:.1g}")
    console = Console()
    console.print(f"{read_card(find(given.bundle)).title}, batches of {given.batch}, {given.threads} threads:")
    console.print(table)


if __name__ == "__main__":
    main()
