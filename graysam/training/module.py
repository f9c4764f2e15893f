"""The LightningModule: training and validation steps, optimizer, frozen parts, and a checkpoint's metadata."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
import numpy as np
import torch
import torch.distributed
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from graysam.data.dataset import Batch
from graysam.metrics.aggregation import MACRO
from graysam.metrics.challenge import binary_metrics
from graysam.models.sam import Sam
from graysam.models.weights import METADATA_KEY
from graysam.training.batch_norm import synchronise
from graysam.training.distillation import Distillation, embedding_error
from graysam.training.losses import EMBEDDING, LOGGED, PROMPT, TERMS, SegmentationLoss, TermSums, world_size
from graysam.training.schedules import WarmupCosine
from graysam.training.scores import ObjectScore, Scores

EPOCH_KEY = "graysam_epoch"


class SamModule(lightning.LightningModule):
    """Trains a Sam on prompted slices.

    Args:
        model: the network, in training mode.
        loss: the three-term loss.
        optimizer: makes an optimizer from the trainable parameters.
        scheduler: makes a scheduler from the optimizer, or None for a constant rate.
        monitor: metric that a ReduceLROnPlateau monitors.
        frozen: names of modules or parameters, relative to the model, that keep their values; batch norm inside a
            frozen module keeps its statistics too.
        channels_last: whether convolutions run in channels-last memory order.
        sync_batchnorm: whether batch norm takes its statistics over all ranks; no effect on a single one.
        compile: whether torch.compile makes kernels of the image encoder, which takes a minute at the first step.
        description: plain containers stored in every checkpoint (model, channels, weights, versions).
        distillation: the teacher whose embeddings the student learns; None trains on masks alone.
        lr_factors: name of a module of the model -> factor of the learning rate of its parameters; of several names
            that contain a parameter the longest applies.

    Raises:
        ValueError: a name in `frozen` or `lr_factors` that the model does not have.
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
        compile: bool,
        description: dict[str, Any],
        distillation: Distillation | None,
        lr_factors: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.model, self.loss, self.description, self.distillation = model, loss, description, distillation
        self.make_optimizer, self.make_scheduler, self.monitor = optimizer, scheduler, monitor
        self.channels_last, self.sync_batchnorm = channels_last, sync_batchnorm
        self.segmentation_weight = 1.0 if distillation is None else distillation.segmentation_weight
        self.frozen, self.lr_factors = frozen, lr_factors
        parts: dict[str, nn.Module | nn.Parameter] = {**dict(model.named_parameters()), **dict(model.named_modules())}
        for option, names in (("frozen", frozen), ("lr_factors", lr_factors)):
            if unknown := [name for name in names if name not in parts]:
                raise ValueError(f"{option}: the model has no part named {', '.join(unknown)}; e.g. mask_decoder")
        for name in frozen:
            parts[name].requires_grad_(False)
        self.scores = Scores()
        self.epoch_sums, self.val_sums = TermSums(), TermSums()
        self.validated: float | None = None  # the monitored value of the last validation since the schedule stepped
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.image_encoder.compile()

    # ------------------------------------------------------------------ modes
    def train(self, mode: bool = True) -> "SamModule":
        """Switch the mode; frozen modules stay in evaluation, so that their batch norm keeps its statistics."""
        super().train(mode)
        for name, module in self.model.named_modules():
            if name in self.frozen:
                module.eval()
        return self

    def configure_model(self) -> None:
        """Synchronise batch norm over ranks; Lightning calls it before it wraps the model for the ranks."""
        if self.sync_batchnorm and self.trainer.world_size > 1:
            synchronise(self.model, gpu=self.trainer.strategy.root_device.type == "cuda")

    def on_fit_start(self) -> None:
        """Enter training mode: Lightning keeps whatever mode it finds."""
        self.train()

    # ------------------------------------------------------------------ steps
    def _loss(self, batch: Batch, stage: str) -> tuple[TermSums, Tensor | None, Tensor | None]:
        """Embed and segment a batch.

        Returns:
            The sums of every term over the batch; the total loss of each object (B,N) and the logits (B,N,S,S), None
            where training does not need them.
        """
        empty = batch.valid & ~batch.masks.flatten(2).any(dim=2)
        _refuse(batch, empty, ValueError, f"empty mask in {stage}; pack the shards again")
        images = batch.images
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        embedding = self.model.encode(images)
        diverged = (
            f"the loss is not finite in {stage}, step {self.global_step}; "
            "lower optimizer.lr, set trainer.gradient_clip_val, or use trainer.precision=32-true"
        )
        zero = embedding.new_zeros((), dtype=torch.float32)
        sums = TermSums(dict.fromkeys((*TERMS, "count"), zero))
        total, logits = None, None
        if stage == "val" or self.segmentation_weight:  # also without any label: DDP waits for every gradient
            logits, iou = self.model.decode(embedding, batch.boxes)
            terms = self.loss(logits, iou, batch.masks)
            total = terms["total"]
            _refuse(batch, batch.valid & ~total.isfinite(), FloatingPointError, diverged)
            sums |= {name: term[batch.valid].sum() for name, term in terms.items()}
            sums["count"] = batch.valid.sum().to(sums["total"])
        if self.distillation is not None:
            target = self.distillation.targets(batch)
            error = embedding_error(embedding, target, batch.masks, self.distillation.mask_weight)
            _refuse(batch, ~error.isfinite()[:, None], FloatingPointError, diverged)
            sums |= {EMBEDDING: error.sum(), "images": zero + len(error)}
            if self.distillation.prompt_weight and stage == "train":
                difference = self.distillation.prompt_error(self.model, embedding, target, batch)
                _refuse(batch, ~difference.isfinite()[:, None], FloatingPointError, diverged)
                sums[PROMPT] = difference.sum()
        return sums, total, logits

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make a step's random numbers a function of seed, epoch, step and rank, so that a run can resume from it."""
        words = (self.description["seed"], self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def on_train_epoch_start(self) -> None:
        """Reset the epoch's means; not called where a run resumes within an epoch."""
        self.epoch_sums = TermSums()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the objects of all ranks' batches, as this rank's share of it."""
        sums, _, _ = self._loss(batch, "train")
        self.epoch_sums.add(sums)
        total = sums.over_ranks()
        for name, mean in total.means().items():
            self.log(f"train/{LOGGED[name]}", mean, on_epoch=False, prog_bar=name in ("total", EMBEDDING))
        # DDP averages the ranks' gradients; their numbers of objects may differ.
        loss = self.segmentation_weight * sums["total"] * world_size() / total["count"].clamp(min=1)
        if self.distillation is not None:
            loss = loss + self.distillation.weight * sums[EMBEDDING] * world_size() / total["images"]
            if PROMPT in sums:
                loss = loss + self.distillation.prompt_weight * sums[PROMPT] * world_size() / total["images"]
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses and step the schedule, before the epoch's checkpoint is stored."""
        means = {f"train/{LOGGED[name]}_epoch": mean for name, mean in self.epoch_sums.over_ranks().means().items()}
        self.log_dict(means)
        scheduler: Any = self.lr_schedulers()
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if scheduler is not None and not isinstance(scheduler, WarmupCosine):
                scheduler.step()
        elif (value := means.get(self.monitor, self.validated)) is not None:
            scheduler.step(value)
        self.validated = None

    def on_validation_epoch_start(self) -> None:
        """Reset scores and sums."""
        self.scores, self.val_sums = Scores(), TermSums()

    def validation_step(  # type: ignore[override]  # Lightning passes any output on to callbacks
        self, batch: Batch, batch_idx: int
    ) -> tuple[Tensor, list[ObjectScore]]:
        """Sum the loss and score every object, slice-wise on the 256 grid.

        Returns:
            Predicted masks (B,N,S,S) bool, and the objects' scores in the order of `batch.valid.nonzero()`.
        """
        sums, total, logits = self._loss(batch, "val")
        self.val_sums.add(sums)
        assert total is not None and logits is not None  # validation always segments
        predicted = logits > 0
        found, masks = predicted.cpu().numpy(), batch.masks.cpu().numpy()
        scores = []
        for i, n in batch.valid.nonzero().tolist():
            dsc, nsd = binary_metrics(masks[i, n], found[i, n])
            loss = float(total[i, n])
            scores.append(ObjectScore(batch.groups[i], batch.modalities[i], dsc, nsd, loss, batch.keys[i], n))
        self.scores += scores
        return predicted, scores

    def on_validation_epoch_end(self) -> None:
        """Log loss, DSC and NSD of every group, every modality and their macro average over modalities."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.scores)
            self.scores = Scores(score for part in gathered for score in part)
        values = {f"val/{LOGGED[name]}": mean for name, mean in self.val_sums.over_ranks().means().items()}
        rows = {f"group/{name}": means for name, means in self.scores.by("group").items()}
        for name, means in self.scores.by_modality().items():
            rows[name if name == MACRO else f"modality/{name}"] = means
        for row, means in rows.items():
            values |= {f"val/{name}_slice256/{row}": getattr(means, name) for name in ("loss", "dsc", "nsd")}
        # A validation before or after training is no point of the curves; Lightning refuses to log without loggers.
        curves = self.trainer.state.fn == TrainerFn.FITTING and bool(self.trainer.loggers)
        for name, value in values.items():
            self.log(name, value, logger=curves, prog_bar=name in ("val/loss", "val/dsc_slice256/macro"))

    def on_validation_end(self) -> None:
        """Keep the value that the schedule monitors."""
        if self.trainer.state.fn != TrainerFn.FITTING or self.monitor.startswith("train/"):
            return
        known = self.trainer.callback_metrics
        if self.monitor not in known:
            raise ValueError(f"scheduler_monitor {self.monitor} is not logged; logged are {', '.join(sorted(known))}")
        self.validated = float(known[self.monitor])

    # ------------------------------------------------------------------ optimizer and checkpoint
    def configure_optimizers(self) -> Any:
        """Return the optimizer over trainable parameters, with its scheduler if there is one."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                holders = [part for part in self.lr_factors if name.startswith(f"{part}.")]
                factor = self.lr_factors[max(holders, key=len)] if holders else 1.0
                groups.setdefault(factor, []).append(parameter)
        if not groups:
            raise ValueError("every parameter is frozen, so there is nothing to train; shorten `frozen`")
        optimizer = self.make_optimizer([{"params": parameters} for parameters in groups.values()])
        for factor, group in zip(groups, optimizer.param_groups, strict=True):
            group["lr"] *= factor
        if self.make_scheduler is None:
            return optimizer
        schedule = self.make_scheduler(optimizer)
        scheduler = {
            "scheduler": schedule,
            "interval": "step" if isinstance(schedule, WarmupCosine) else "epoch",
            "monitor": self.monitor,
            "reduce_on_plateau": False,
        }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule of steps only: Lightning would step a plateau after the epoch's checkpoint is stored."""
        if isinstance(scheduler, WarmupCosine):
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the model's description (model, channels, first weights, versions) and the epoch's sums so far."""
        checkpoint[METADATA_KEY] = self.description
        checkpoint[EPOCH_KEY] = {"sums": dict(self.epoch_sums.over_ranks()), "validated": self.validated}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume within the epoch."""
        state = checkpoint[EPOCH_KEY]
        share = 1 if self.global_rank == 0 else 0  # the stored sums are those of all ranks
        self.epoch_sums = TermSums({name: share * value.to(self.device) for name, value in state["sums"].items()})
        self.validated = state["validated"]


def _refuse(batch: Batch, bad: Tensor, kind: type[Exception], problem: str) -> None:
    """Raise an error that names the samples with a bad object, (B,N) bool."""
    if bad.any():
        keys = [key for key, hit in zip(batch.keys, bad.any(dim=1).tolist(), strict=True) if hit]
        raise kind(f"sample {', '.join(keys)}: {problem}")
