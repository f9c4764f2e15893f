"""The LightningModule: training and validation steps, optimizer, frozen parts, and what a checkpoint says of itself."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from graysam.data.dataset import Batch
from graysam.models.sam import Sam
from graysam.models.weights import METADATA_KEY
from graysam.training.losses import LossTerms, SegmentationLoss
from graysam.training.scores import Scores

TERMS = ("total", "bce", "dice", "iou")


class SamModule(lightning.LightningModule):
    """Trains a Sam on prompted slices.

    Args:
        model: the network, in training mode.
        loss: the three-term loss.
        optimizer: makes an optimizer from the trainable parameters.
        scheduler: makes a scheduler from the optimizer, or None for a constant rate.
        monitor: metric that a ReduceLROnPlateau watches, and that chooses the best checkpoint.
        frozen: names of modules or parameters, relative to the model, that keep their values; batch norm inside a
            frozen module keeps its statistics too.
        channels_last: whether convolutions run in channels-last memory order.
        description: plain containers stored in every checkpoint (model, channels, weights, versions).

    Raises:
        ValueError: a name in `frozen` that the model does not have.
    """

    def __init__(
        self,
        *,
        model: Sam,
        loss: SegmentationLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None,
        monitor: str,
        frozen: Sequence[str],
        channels_last: bool,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.make_optimizer, self.make_scheduler, self.monitor = optimizer, scheduler, monitor
        self.channels_last = channels_last
        self.description = description
        self.frozen_modules = self._freeze(frozen)
        self.scores = Scores()
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    # ------------------------------------------------------------------ frozen parts
    def _freeze(self, names: Sequence[str]) -> list[nn.Module]:
        modules, parameters = dict(self.model.named_modules()), dict(self.model.named_parameters())
        unknown = [name for name in names if name not in modules and name not in parameters]
        if unknown:
            raise ValueError(f"frozen: the model has no part named {', '.join(unknown)}; e.g. image_encoder.backbone")
        for name in names:
            (modules.get(name) or parameters[name]).requires_grad_(False)
        return [modules[name] for name in names if name in modules]

    def train(self, mode: bool = True) -> "SamModule":
        """Switch the mode; frozen modules stay in evaluation, so that their batch norm keeps its statistics."""
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self

    def on_fit_start(self) -> None:
        """Enter training mode: Lightning keeps whatever mode it finds."""
        self.train()

    # ------------------------------------------------------------------ steps
    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B,N,256,256) and predicted IoU (B,N) of images (B,3,256,256) and boxes (B,N,4)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images, boxes)

    def _loss(self, batch: Batch, stage: str) -> tuple[Tensor, LossTerms, Tensor]:
        empty = batch.valid & ~batch.masks.flatten(2).any(dim=2)
        if empty.any():
            raise ValueError(f"empty mask in {stage}: sample {self._names(batch, empty)}; pack the shards again")
        logits, iou = self(batch.images, batch.boxes)
        terms: LossTerms = self.loss(logits, iou, batch.masks)
        bad = batch.valid & ~terms.total.isfinite()
        if bad.any():
            raise FloatingPointError(
                f"the loss is not finite in {stage}, step {self.global_step}: sample {self._names(batch, bad)}; "
                "lower optimizer.lr, set trainer.gradient_clip_val, or use trainer.precision=32-true"
            )
        count = int(batch.valid.sum())
        means = {name: getattr(terms, name)[batch.valid].mean() for name in TERMS}
        training = stage == "train"
        for name, value in means.items():
            self.log(
                f"{stage}/loss" if name == "total" else f"{stage}/loss_{name}",
                value.detach(),
                on_step=training,
                on_epoch=True,
                batch_size=count,
                sync_dist=not training,
                prog_bar=name == "total",
            )
        return means["total"], terms, logits

    @staticmethod
    def _names(batch: Batch, chosen: Tensor) -> str:
        return ", ".join(key for key, hit in zip(batch.keys, chosen.any(dim=1).tolist(), strict=True) if hit)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over a batch's objects."""
        return self._loss(batch, "train")[0]

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last validation."""
        self.scores = Scores()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and score every object, slice-wise on the 256 grid."""
        _, terms, logits = self._loss(batch, "val")
        predicted, masks = (logits > 0).cpu().numpy(), batch.masks.cpu().numpy()
        for i, n in batch.valid.nonzero().tolist():
            loss = float(terms.total[i, n])
            self.scores.add(batch.groups[i], batch.modalities[i], masks[i, n], predicted[i, n], loss)

    def on_validation_epoch_end(self) -> None:
        """Log loss, DSC and NSD of every group, every modality and their macro average over modalities."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.scores.objects)
            self.scores = Scores([score for part in gathered for score in part])
        for kind in ("group", "modality"):
            for name, means in self.scores.by(kind).items():
                self.log(f"val/loss_slice256/{kind}/{name}", means.loss)
                self.log(f"val/dsc_slice256/{kind}/{name}", means.dsc)
                self.log(f"val/nsd_slice256/{kind}/{name}", means.nsd)
        macro = self.scores.macro()
        self.log("val/loss_slice256/macro", macro.loss)
        self.log("val/dsc_slice256/macro", macro.dsc, prog_bar=True)
        self.log("val/nsd_slice256/macro", macro.nsd)

    # ------------------------------------------------------------------ optimizer and checkpoint
    def configure_optimizers(self) -> Any:
        """Return the optimizer over trainable parameters, with its scheduler if there is one."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("every parameter is frozen, so there is nothing to train; shorten `frozen`")
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        every = None if self._trainer is None else self._trainer.check_val_every_n_epoch
        scheduler = {
            "scheduler": self.make_scheduler(optimizer),
            "interval": "epoch",
            "frequency": every or 1,  # a plateau can only be seen after a validation
            "monitor": self.monitor,
        }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the checkpoint is: model numbers, channels, the weights it started from, versions."""
        checkpoint[METADATA_KEY] = self.description
