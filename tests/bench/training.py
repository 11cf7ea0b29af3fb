"""Images a second of training: the data pipeline alone, the network's step alone, and both as the trainer joins them.

    python tests/bench/training.py [--network residual] [--size 256] [--batch 16] [--workers 0]

``--network`` is a preset of the U-Net, or an encoder that learnt from ImageNet (``efficientnet-lite0``), here with
random weights and all its levels learning. On phantoms. Prints medians, the share of the slower part that both together
reach (0.9 is the aim), and the share of the measured rate of matrix products that the step reaches; on a GPU with
bfloat16, channels last and compiled. The clock is this process's own where everything runs in it: other programs on the
machine do not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from chexmodels.nets.encoder import ENCODERS
from chexmodels.nets.encoder_unet import EncoderUNet
from chexmodels.nets.unet import UNet
from chextrain.config import Config, load_config
from chextrain.data import phantom
from chextrain.data.arrays import Batch, Samples, load
from chextrain.fit.trainer import Localisation, loader

STEPS = 12
ROUNDS = 5
IMAGES = 256


@dataclass(frozen=True)
class Mode:
    """One way of running the step."""

    name: str
    bf16: bool
    channels_last: bool = False
    compiled: bool = False


CPU = (Mode("float32", bf16=False), Mode("bfloat16", bf16=True), Mode("bfloat16, channels last", True, True))
GPU = (*CPU, Mode("bfloat16, channels last, compiled", True, True, True))


def built(name: str, dropout: float = 0.0) -> nn.Module:
    """The U-Net of a preset, or the one on an encoder."""
    return EncoderUNet(name, dropout=dropout) if name in ENCODERS else UNet(name, dropout=dropout)


class Step:
    """What the trainer does with a batch, without its bookkeeping."""

    def __init__(self, name: str, config: Config, mode: Mode, device: torch.device) -> None:
        network = built(name, config.network.dropout).to(device)
        if mode.channels_last:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = Localisation(torch.compile(network) if mode.compiled else network, config, prior=0.05)  # type: ignore[arg-type]
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.mode, self.device = mode, device

    def __call__(self, batch: Batch) -> None:
        image, target, weight, _ = self.module.augment(tuple(part.to(self.device, non_blocking=True) for part in batch))  # type: ignore[arg-type]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mode.bf16):
            logits = self.module.network(image)
        halves: list[Tensor] = [maps[:, :, ::2, ::2] for maps in (logits.float(), target, weight)]
        loss = self.module.loss(*halves, boxed=False)  # type: ignore[arg-type]
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.network.parameters(), 1.0)
        self.optimizer.step()


def rate(work: Callable[[], Any], images: int, clock: Callable[[], float]) -> float:
    """Median images a second of ``work``, which handles ``images``."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = clock()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return images / statistics.median(seconds)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measured floating point operations a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.rand(side, side, device=device, dtype=dtype)
    return rate(lambda: a @ a, 2 * side**3, time.perf_counter if device.type == "cuda" else time.process_time)


def flops(name: str, config: Config) -> float:
    """Of one image's forward and backward pass: three times the forward's, as usual."""
    network, counter = built(name), FlopCounterMode(display=False)
    with counter:
        network.eval()(torch.rand(1, 1, config.data.size, config.data.size))
    return 3.0 * counter.get_total_flops()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--network", default="residual")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    config = load_config(
        None,
        [
            f"data.size={given.size}",
            f"training.batch_size={given.batch}",
            f"training.workers={given.workers}",
            "loss.boxed=0",
            "augmentation.transplant=0.6",
        ],
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" and not given.workers else time.perf_counter
    samples = Samples(load(phantom.collection(IMAGES, 1, 1), "train", given.size, None))
    count = STEPS * given.batch

    def batches() -> Iterator[Any]:
        return islice((batch for epoch in cycle([loader(samples, config, train=True)]) for batch in epoch), STEPS)

    pipeline = rate(lambda: [None for _ in batches()], count, clock)
    fixed = next(iter(loader(samples, config, train=True)))
    operations = flops(given.network, config)
    table = Table("step", "pipeline", "step alone", "together", "of the slower", "of the matmul rate")
    for mode in GPU if device.type == "cuda" else CPU:
        step = Step(given.network, config, mode, device)
        alone = rate(lambda step=step: [step(fixed) for _ in range(STEPS)], count, clock)  # type: ignore[misc]
        both = rate(lambda step=step: [step(batch) for batch in batches()], count, clock)  # type: ignore[misc]
        peak = matmul_rate(device, torch.bfloat16 if mode.bf16 else torch.float32)
        table.add_row(
            mode.name,
            f"{pipeline:.0f}",
            f"{alone:.0f}",
            f"{both:.0f}",
            f"{both / min(alone, pipeline):.2f}",
            f"{alone * operations / peak:.2f}",
        )
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    console = Console()
    console.print(f"{given.network}, {given.size} px, batches of {given.batch}, images a second, {where}:")
    console.print(table)


if __name__ == "__main__":
    main()
