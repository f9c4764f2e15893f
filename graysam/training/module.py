"""The LightningModule: training and validation steps, optimizer, frozen parts, and what a checkpoint says of itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from graysam.data.dataset import Batch
from graysam.models.sam import Sam
from graysam.models.weights import METADATA_KEY
from graysam.training.batch_norm import synchronise
from graysam.training.losses import LossTerms, SegmentationLoss
from graysam.training.metric_names import TERMS, metric_name
from graysam.training.scores import ObjectScore, Scores

EPOCH_KEY = "graysam_epoch"


@dataclass(frozen=True)
class ValidationOutput:
    """What one validation batch gave: masks (B,N,S,S) bool, and scores in the order of `batch.valid.nonzero()`."""

    predicted: Tensor
    scores: list[ObjectScore]


class SamModule(lightning.LightningModule):
    """Trains a Sam on prompted slices.

    Args:
        model: the network, in training mode.
        loss: the three-term loss.
        optimizer: makes an optimizer from the trainable parameters.
        scheduler: makes a scheduler from the optimizer, or None for a constant rate.
        monitor: metric that a ReduceLROnPlateau watches.
        frozen: names of modules or parameters, relative to the model, that keep their values; batch norm inside a
            frozen module keeps its statistics too.
        channels_last: whether convolutions run in channels-last memory order.
        sync_batchnorm: whether batch norm takes its statistics over all ranks; changes nothing on one.
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
        sync_batchnorm: bool,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.make_optimizer, self.make_scheduler, self.monitor = optimizer, scheduler, monitor
        self.channels_last, self.sync_batchnorm = channels_last, sync_batchnorm
        self.description = description
        self.frozen = list(frozen)
        self.frozen_modules = self._freeze()
        self.scores = Scores()
        self.epoch_sums: dict[str, Tensor] = {}
        self.val_sums: dict[str, Tensor] = {}
        self.validated: float | None = None  # what the schedule watches, since it last stepped
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    # ------------------------------------------------------------------ frozen parts
    def _freeze(self) -> list[nn.Module]:
        names = self.frozen
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

    def configure_model(self) -> None:
        """Let batch norm look at all ranks; Lightning calls it before it hands the model to the ranks."""
        if self.sync_batchnorm and self.trainer.world_size > 1:
            synchronise(self.model, gpu=self.trainer.strategy.root_device.type == "cuda")
            self.frozen_modules = self._freeze()

    def on_fit_start(self) -> None:
        """Enter training mode: Lightning keeps whatever mode it finds."""
        self.train()

    # ------------------------------------------------------------------ steps
    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B,N,256,256) and predicted IoU (B,N) of images (B,3,256,256) and boxes (B,N,4)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images, boxes)

    def _loss(self, batch: Batch, stage: str) -> tuple[dict[str, Tensor], LossTerms, Tensor]:
        """Return the sums of every term over the batch's objects and their `count`; the terms; the logits."""
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
        sums = {name: getattr(terms, name)[batch.valid].sum() for name in TERMS}
        sums["count"] = batch.valid.sum().to(sums["total"])
        return sums, terms, logits

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Return the mean of every term over the objects of all ranks."""
        total = self._over_ranks(sums)
        return {name: float(total[name] / total["count"]) for name in TERMS}

    def _over_ranks(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._ranks == 1 or not sums:
            return sums
        values = torch.stack(list(sums.values()))
        torch.distributed.all_reduce(values)
        return dict(zip(sums, values, strict=True))

    @property
    def _ranks(self) -> int:
        return 1 if self._trainer is None else self._trainer.world_size

    @staticmethod
    def _names(batch: Batch, chosen: Tensor) -> str:
        return ", ".join(key for key, hit in zip(batch.keys, chosen.any(dim=1).tolist(), strict=True) if hit)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make a step's random numbers a function of seed, epoch, step and rank, so that a run can go on from it."""
        words = (self.description["seed"], self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's means anew; a run that goes on within an epoch does not come here."""
        self.epoch_sums = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the objects of all ranks' batches, as this rank's share of it."""
        sums = self._loss(batch, "train")[0]
        _add(self.epoch_sums, sums)
        total = self._over_ranks({name: value.detach() for name, value in sums.items()})
        for name in TERMS:
            mean = total[name] / total["count"]
            self.log(metric_name("train", name), mean, on_epoch=False, prog_bar=name == "total")
        # DDP averages the ranks' gradients; their numbers of objects may differ.
        return sums["total"] * self._ranks / total["count"]

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses and step the schedule, before the epoch's checkpoint is stored."""
        means = {f"{metric_name('train', name)}_epoch": mean for name, mean in self._means(self.epoch_sums).items()}
        self.log_dict(means)
        self._step_schedule(means)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.scores, self.val_sums = Scores(), {}

    def validation_step(  # type: ignore[override]  # Lightning hands on to callbacks whatever it is
        self, batch: Batch, batch_idx: int
    ) -> ValidationOutput:
        """Sum the loss and score every object, slice-wise on the 256 grid."""
        sums, terms, logits = self._loss(batch, "val")
        _add(self.val_sums, sums)
        predicted = logits > 0
        found, masks = predicted.cpu().numpy(), batch.masks.cpu().numpy()
        scores = [
            self.scores.add(
                batch.groups[i],
                batch.modalities[i],
                masks[i, n],
                found[i, n],
                float(terms.total[i, n]),
                key=batch.keys[i],
                prompt=n,
            )
            for i, n in batch.valid.nonzero().tolist()
        ]
        return ValidationOutput(predicted, scores)

    def on_validation_epoch_end(self) -> None:
        """Log loss, DSC and NSD of every group, every modality and their macro average over modalities."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.scores.objects)
            self.scores = Scores([score for part in gathered for score in part])
        values = {metric_name("val", name): mean for name, mean in self._means(self.val_sums).items()}
        rows = [f"{kind}/{name}" for kind in ("group", "modality") for name in self.scores.by(kind)]
        means = [*self.scores.by("group").values(), *self.scores.by("modality").values(), self.scores.macro()]
        for row, mean in zip([*rows, "macro"], means, strict=True):
            for figure in ("loss", "dsc", "nsd"):
                values[f"val/{figure}_slice256/{row}"] = getattr(mean, figure)
        # A validation before or after training is no point of the curves; Lightning refuses to log to no logger.
        curves = self.trainer.state.fn == TrainerFn.FITTING and bool(self.trainer.loggers)
        for name, value in values.items():
            self.log(name, value, logger=curves, prog_bar=name in ("val/loss", "val/dsc_slice256/macro"))

    # ------------------------------------------------------------------ optimizer and checkpoint
    def configure_optimizers(self) -> Any:
        """Return the optimizer over trainable parameters, with its scheduler if there is one."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("every parameter is frozen, so there is nothing to train; shorten `frozen`")
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        # Lightning only stores the schedule and watches its rate; `_step_schedule` steps it.
        scheduler = {"scheduler": self.make_scheduler(optimizer), "monitor": self.monitor, "reduce_on_plateau": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Do nothing: Lightning steps a plateau when the epoch's checkpoint is already stored."""

    def _step_schedule(self, means: dict[str, float]) -> None:
        """Step the schedule once an epoch; one that watches a validation only after a validation."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            value = means.get(self.monitor, self.validated)
            if value is not None:
                scheduler.step(value)
        elif scheduler is not None:
            scheduler.step()  # type: ignore[union-attr]
        self.validated = None

    def on_validation_end(self) -> None:
        """Keep the value that the schedule watches."""
        if self.trainer.state.fn != TrainerFn.FITTING or self.monitor.startswith("train/"):
            return
        known = self.trainer.callback_metrics
        if self.monitor not in known:
            raise ValueError(f"scheduler_monitor {self.monitor} is not logged; logged are {', '.join(sorted(known))}")
        self.validated = float(known[self.monitor])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the checkpoint is (model numbers, channels, first weights, versions) and where the epoch is."""
        checkpoint[METADATA_KEY] = self.description
        checkpoint[EPOCH_KEY] = {"sums": self._over_ranks(self.epoch_sums), "validated": self.validated}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on within the epoch."""
        state = checkpoint[EPOCH_KEY]
        share = 1 if self.global_rank == 0 else 0  # the stored sums are those of all ranks
        self.epoch_sums = {name: share * value.to(self.device) for name, value in state["sums"].items()}
        self.validated = state["validated"]


def _add(sums: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()
