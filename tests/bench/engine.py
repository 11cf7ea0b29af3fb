"""An image through a bundle by PyTorch, PyTorch compiled, ONNX Runtime and OpenVINO, taking turns.

    python tests/bench/engine.py [--bundle chexnomaly] [--batch 1] [--threads 2] [--rounds 15]

Medians of one batch in milliseconds an image, as ratios to PyTorch's (above 1 is faster), and how far the map is from
PyTorch's. The clock is the wall's, so nothing else should run. An engine that is not installed, or that does not take
the network, is said to be so; OpenVINO is no dependency of the project's (``pip install openvino``).
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from chexmodels.bundle import find
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


def engines(network: nn.Module, images: Images, threads: int) -> Mapping[str, Engine | str]:
    """Every engine, or why there is none."""
    graph = exported(network, images)
    makers: dict[str, Callable[[], Any]] = {
        "PyTorch": lambda: pytorch(network),
        "PyTorch, channels last": lambda: pytorch(copy.deepcopy(network).to(memory_format=torch.channels_last)),  # type: ignore[call-overload]
        "torch.compile": lambda: pytorch(torch.compile(network)),  # type: ignore[arg-type]
        "ONNX Runtime": lambda: onnx_runtime(graph, threads),
        "OpenVINO": lambda: openvino(graph, threads),
    }
    found: dict[str, Engine | str] = {}
    for name, make in makers.items():
        try:
            engine = make()
            engine(images)  # compiles
            found[name] = engine
        except Exception as error:  # whatever an engine raises, the others are measured
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bundle", default="chexnomaly")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load(find(given.bundle))
    assert isinstance(model, Loaded)
    side = model.card.size
    images = np.random.default_rng(0).random((given.batch, 1, side, side), dtype=np.float32)
    found = engines(model.network, images, given.threads)
    expected = pytorch(model.network)(images)
    seconds: dict[str, list[float]] = {name: [] for name, engine in found.items() if not isinstance(engine, str)}
    for _ in range(given.rounds):
        for name, times in seconds.items():
            start = time.perf_counter()
            found[name](images)  # type: ignore[operator]
            times.append(time.perf_counter() - start)
    usual = statistics.median(seconds["PyTorch"])
    table = Table("engine", "ms an image", "faster", "largest difference of a logit")
    for name, engine in found.items():
        if isinstance(engine, str):
            table.add_row(name, "-", "-", engine)
            continue
        median = statistics.median(seconds[name])
        difference = float(np.abs(engine(images) - expected).max())
        table.add_row(name, f"{1000 * median / given.batch:.0f}", f"{usual / median:.2f}", f"{difference:.1g}")
    console = Console()
    console.print(f"{model.card.title}, {side} px, batches of {given.batch}, {given.threads} threads:")
    console.print(table)


if __name__ == "__main__":
    main()
