"""The Lightning modules and the one trainer that the recipes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from chexmodels.nets.chexnomaly import CheXNomaly
from chexmodels.nets.unet import UNet, start_at
from chextrain.config import Config, ConfigError
from chextrain.data.arrays import Batch, Samples
from chextrain.fit.augmentation import Augmentation
from chextrain.fit.box_transform import TRANSFORMS
from chextrain.fit.curves import draw
from chextrain.fit.losses import pixel_loss, soft_dice
from chextrain.fit.quiet import quiet
from chextrain.metrics import pixel_ap, pointing_game
from chextrain.runs import BEST, Best

SMALLEST = 100
"""Pixels at 512 px of the smallest component that is boxed in the loss, as in post-processing."""


class Fitted(pl.LightningModule):
    """A network with AdamW on a one-cycle schedule; subclasses say what a step and a validation are."""

    monitor: str | None = None
    """What validation logs and the best epoch is chosen by; None: there is no validation, the last epoch is kept."""

    def __init__(self, network: nn.Module, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.augmentation = Augmentation(**dict(config.augmentation))
        self.save_hyperparameters(config.model_dump(mode="json"))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the learning rates and the schedule of this run's values, where those of the checkpoint differ.

        The schedule is laid over all epochs that there now are, and taken up at the step that the checkpoint has
        reached. Raises ``ConfigError`` where these are fewer than are done.
        """
        done, epochs = checkpoint["epoch"] + 1, self.config.training.epochs
        if done > epochs:
            raise ConfigError(f"training.epochs is {epochs}, and the run has done {done}")
        fresh = self.configure_optimizers()
        if isinstance(fresh, dict):
            optimizer, schedule = fresh["optimizer"], fresh["lr_scheduler"]["scheduler"]
            schedule.last_epoch = min(checkpoint["lr_schedulers"][0]["last_epoch"], schedule.total_steps - 1)
            for group, rate in zip(optimizer.param_groups, schedule.get_lr(), strict=True):
                group["lr"] = rate
            checkpoint["lr_schedulers"][0] = schedule.state_dict()
        else:
            optimizer = fresh
        for group, now in zip(checkpoint["optimizer_states"][0]["param_groups"], optimizer.param_groups, strict=True):
            group.update({name: value for name, value in now.items() if name != "params"})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What learns; a group with ``lr`` has a highest learning rate of its own."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @property
    def progress(self) -> float:
        """Share of the training steps that are done, in [0, 1]."""
        return self.global_step / max(1, int(self.trainer.estimated_stepping_batches))

    def configure_optimizers(self) -> Any:
        values = self.config.training
        groups = self.parameter_groups()
        optimizer = torch.optim.AdamW(groups, lr=values.learning_rate, weight_decay=values.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group.get("lr", values.learning_rate) for group in groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=values.warmup,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Localisation(Fitted):
    """Supermodel and CheX-Nomaly: focal and Dice on the map, before and after the component box transform.

    ``prior`` is the mean mask fraction of the training set. With ``findings``, a convolution beside the network's last
    one draws a map of each; it is learnt only so that the network sees which finding it is, and is not kept. Validation
    logs ``val_ap`` (pixel average precision on images with a finding) and ``val_pointing``.
    """

    monitor = "val_ap"

    def __init__(self, network: nn.Module, config: Config, prior: float, findings: Sequence[str] = ()) -> None:
        super().__init__(network, config)
        self.prior = prior
        self.findings = findings
        if findings:
            self.single = nn.Conv2d(cast(UNet | CheXNomaly, network).width, len(findings), kernel_size=1)
            start_at(self.single, prior / len(findings))
        self.pixel_loss = pixel_loss(config.loss.pixels)
        self.min_area = max(1, round(SMALLEST * (config.data.size / 2 / 512) ** 2))
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        image, target, weight, named = self.augment(batch)
        weight = torch.where((target > 0).any(dim=(1, 2, 3), keepdim=True), weight, self.config.loss.normal * weight)
        logits, more = self.answer(image, target, weight, named)
        # Half the resolution loses nothing that a box could tell, and costs a quarter.
        logits, target, weight = (map_[:, :, ::2, ::2] for map_ in (logits.float(), target, weight))
        loss = self.loss(logits, target, weight, boxed=self.progress >= self.config.loss.boxed_after) + more
        self.log("loss", loss, prog_bar=True)
        return loss

    def answer(self, image: Tensor, target: Tensor, weight: Tensor, named: Tensor) -> tuple[Tensor, Tensor | float]:
        """The network's logits on ``image``, and the scalar loss of what else it is to tell."""
        if not self.findings:
            return self.network(image), 0.0
        network = cast(UNet | CheXNomaly, self.network)
        features = network.features(image)
        return network.logits(features, image), self.single_loss(features, named, weight)

    def single_loss(self, features: Tensor, named: Tensor, weight: Tensor) -> Tensor:
        """The weighted loss of the maps of single findings that are drawn from the last decoder level."""
        return self.config.loss.findings * self._single_loss(self.single(features).float(), named, weight)

    def augment(self, batch: Batch) -> Batch:
        """What the network is shown instead of ``batch``."""
        return self.augmentation(*batch)

    def loss(self, logits: Tensor, target: Tensor, weight: Tensor, boxed: bool) -> Tensor:
        """The scalar loss of a batch; float32."""
        values = self.config.loss
        loss = self._map_loss(logits, target, weight)
        if boxed and values.boxed > 0:
            # Back to logits, so that one numerically safe formula serves both; the clamp bounds the round trip.
            prob = TRANSFORMS[values.transform](torch.sigmoid(logits), target, self.min_area).clamp(1e-6, 1 - 1e-6)
            loss = (1 - values.boxed) * loss + values.boxed * self._map_loss(torch.logit(prob), target, weight)
        return loss

    def _map_loss(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        values = self.config.loss
        pixels = self.pixel_loss(logits, target, values.alpha, values.gamma) * weight
        # A mean over pixels is tiny where few of them are positive; the prior brings it to the scale of the Dice.
        return pixels.mean() / self.prior + values.dice * soft_dice(torch.sigmoid(logits), target, weight)

    def _single_loss(self, logits: Tensor, named: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy of ``(B,findings,h,w)`` with what the bits of ``named`` say at the middle of each cell."""
        step = named.shape[-1] // logits.shape[-1]
        named, weight = (map_[:, :, step // 2 :: step, step // 2 :: step] for map_ in (named, weight))
        bits = 2 ** torch.arange(len(self.findings), device=named.device)
        target = (named.int() & bits[:, None, None] > 0).float()
        return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).mean() / self.prior

    def validation_step(self, batch: Batch, index: int) -> None:
        image, target, *_ = batch
        prob = torch.sigmoid(self.network(image).float())
        self.seen.append((prob[:, 0].cpu().numpy(), target[:, 0].cpu().numpy() > 0))

    def on_validation_epoch_end(self) -> None:
        prob, truth = (np.concatenate(part) for part in zip(*self.seen, strict=True))
        self.seen.clear()
        self.log("val_ap", pixel_ap(prob[:, ::2, ::2], truth[:, ::2, ::2]), prog_bar=True)
        self.log("val_pointing", pointing_game(prob, truth), prog_bar=True)


def fit(
    module: Fitted, train: DataLoader[Any], val: DataLoader[Any] | None, folder: Path, *, resume: bool = False
) -> Path:
    """Train ``module`` on whatever accelerator there is, on all GPUs at once (DDP) where there are several.

    Leaves in ``folder``: ``last.ckpt`` (to resume), ``best.pt`` (averaged weights that validated best or, of a module
    without a monitor, the last weights as they are; returned), ``best.json`` (which epoch that was), ``curves.png``,
    and for each start ``log/version_N/metrics.csv`` and what other loggers write. With ``resume``, go on from
    ``last.ckpt`` if it is there, with this run's values of ``training``. Raises ``ConfigError`` for a logger that is
    not installed.
    """
    values = module.config.training
    best = folder / BEST
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True),
        TQDMProgressBar(refresh_rate=5),
    ]
    if module.monitor is not None:
        callbacks = [KeepBest(folder, module.monitor), Averaging(decay=values.ema), *callbacks]
        if values.patience:
            callbacks.append(EarlyStopping(module.monitor, mode="max", patience=values.patience))
    with quiet():
        trainer = _trainer(module.config, folder, callbacks, len(train))
        last = folder / "last.ckpt"
        trainer.fit(module, train, val, ckpt_path=last if resume and last.exists() else None, weights_only=False)
    if trainer.is_global_zero:
        if module.monitor is None:
            torch.save(module.network.state_dict(), best)
            Best(values.epochs, values.epochs).write(folder)
        draw(folder)
    trainer.strategy.barrier("the best weights are written")
    module.network.load_state_dict(torch.load(best, weights_only=True))
    return best


def _trainer(config: Config, folder: Path, callbacks: list[Callback], batches: int) -> pl.Trainer:
    values = config.training
    devices = values.devices
    return pl.Trainer(
        max_epochs=values.epochs,
        precision=cast(Any, supported(values.precision)),
        gradient_clip_val=values.clip,
        callbacks=callbacks,
        devices=int(devices) if str(devices).isdecimal() else devices,
        strategy=values.strategy,
        logger=_loggers(values.loggers, folder),
        log_every_n_steps=max(1, min(10, batches)),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        deterministic="warn",
    )


def _loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    csv = CSVLogger(folder, name="log")
    makers: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(folder, name="log", version=csv.version),
        "mlflow": lambda: MLFlowLogger(run_name=folder.name, tracking_uri=(folder / "mlruns").absolute().as_uri()),
        "wandb": lambda: WandbLogger(name=folder.name, save_dir=folder, offline=True),
    }
    try:
        return [csv, *(makers[name]() for name in dict.fromkeys(names) if name != "csv")]
    except ModuleNotFoundError as error:
        raise ConfigError(f"training.loggers: {str(error).splitlines()[0]}") from error


def supported(precision: str) -> str:
    """Lightning's name of a precision, bfloat16 replaced by float16 on a GPU that could only emulate it."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return precision.replace("bf16", "16")
    return precision


class Averaging(WeightAveraging):
    """Exponentially averaged weights, in the network until validation has ended.

    Lightning's own take them out before the module computes its numbers, and before anybody can keep them; and their
    formula changes frozen weights by a rounding error each step. ``lerp`` leaves equal numbers as they are.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            return torch.lerp(averaged, current, 1 - decay) if averaged.is_floating_point() else current

        super().__init__(avg_fn=average)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Too early."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


class KeepBest(Callback):
    """Write the network's weights whenever the monitored value is the best so far; to be called before
    :class:`Averaging`, which takes the averaged weights out.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.folder = folder
        self.monitor = monitor
        self.best = -np.inf

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        if value <= self.best:
            return
        self.best = value
        if trainer.is_global_zero:
            torch.save(cast(Fitted, pl_module).network.state_dict(), self.folder / BEST)
            figures = {name: float(each) for name, each in trainer.callback_metrics.items() if name.startswith("val_")}
            Best(trainer.current_epoch + 1, trainer.max_epochs or 0, figures).write(self.folder)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best = state_dict["best"]


class Epoch(Sampler[int]):
    """Every image with a finding, and a share of the others drawn anew, in random order."""

    def __init__(self, finding: Sequence[bool], share: float) -> None:
        self.finding = torch.tensor(finding)
        self.others = round(share * int((~self.finding).sum()))

    def __len__(self) -> int:
        return int(self.finding.sum()) + self.others

    def __iter__(self) -> Iterator[int]:
        others = torch.nonzero(~self.finding)[:, 0]
        drawn = others[torch.randperm(len(others))[: self.others]]
        shown = torch.cat([torch.nonzero(self.finding)[:, 0], drawn])
        yield from shown[torch.randperm(len(shown))].tolist()


def loader(samples: Dataset[Any], config: Config, *, train: bool) -> DataLoader[Any]:
    """Batches; the images are in memory or mapped, so that workers copy nothing but what they return.

    On several GPUs the training images are shared out, and each process validates all images: exact, with no gathering.
    """
    sampler: Sampler[int] | None = None
    if not train:
        sampler = DistributedSampler(samples, num_replicas=1, rank=0, shuffle=False)
    elif isinstance(samples, Samples) and config.data.normals < 1:
        sampler = Epoch([bool(case.boxes) for case in samples.arrays.cases], config.data.normals)
    return DataLoader(
        samples,
        batch_size=config.training.batch_size,
        shuffle=train and sampler is None,
        sampler=sampler,
        drop_last=train,
        num_workers=config.training.workers,
        pin_memory=torch.cuda.is_available(),
    )
