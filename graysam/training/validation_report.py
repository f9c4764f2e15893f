"""Log a table of every validation by modality, and pictures of its best and worst objects."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from graysam.data.dataset import Batch
from graysam.data.shards import ShardReader
from graysam.imaging.canvas import resize_longest_side
from graysam.imaging.drawing import draw_panel
from graysam.system.terminal import check_at_least
from graysam.training.loggers import log_images, log_table
from graysam.training.module import SamModule
from graysam.training.scores import ObjectScore


class SeenObject(NamedTuple):
    """A validated object: its score, box_xyxy (4,) on the grid, and both masks, bool (size,size)."""

    score: ObjectScore
    box_xyxy: NDArray[np.float32]
    mask: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


class ValidationReport(Callback):
    """Logs a table of every validation and pictures of its best and worst objects by modality.

    Within training the table is `validation`; a validation before training is called `start`, one after it
    `trained`, and the scores of these two are also logged as `start/dsc_slice256/<modality>` and so on. Pictures
    are `<table>/worst/<modality>` and `<table>/best/<modality>`. Of all objects, only those shown are kept in memory.

    Args:
        best, worst: objects of each modality to show, by DSC, then NSD.
        pictures_every_n_epochs: interval in training; before and after it pictures are always logged.

    Raises:
        ValueError: a negative count, or no epochs.
    """

    def __init__(self, *, best: int, worst: int, pictures_every_n_epochs: int) -> None:
        check_at_least(0, "callbacks.validation_report.best", best)
        check_at_least(0, "callbacks.validation_report.worst", worst)
        check_at_least(1, "callbacks.validation_report.pictures_every_n_epochs", pictures_every_n_epochs)
        self.best, self.worst, self.every = best, worst, pictures_every_n_epochs
        self.seen: dict[str, list[SeenObject]] = {}
        self.title, self.draws = "", False

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Decide whether this validation is drawn, and forget the last one."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        self.title = "validation" if fitting else "trained" if trainer.global_step else "start"
        # Of the validated epochs, the first in each interval.
        due = not fitting or (trainer.current_epoch + 1) % self.every < (trainer.check_val_every_n_epoch or 1)
        self.draws = bool(trainer.loggers) and not trainer.sanity_checking and due
        self.seen = {}

    def on_validation_batch_end(  # type: ignore[override]  # Lightning passes arguments by position
        self, trainer: Trainer, module: SamModule, outputs: tuple[Tensor, list[ObjectScore]], batch: Batch, *_: Any
    ) -> None:
        """Keep the objects that are among the best or the worst so far."""
        if self.draws:
            boxes, masks, predicted = (x.cpu().numpy() for x in (batch.boxes, batch.masks, outputs[0]))
            places = zip(batch.valid.nonzero().tolist(), outputs[1], strict=True)
            self._keep(SeenObject(s, boxes[i, n], masks[i, n].copy(), predicted[i, n].copy()) for (i, n), s in places)

    def on_validation_end(self, trainer: Trainer, module: SamModule) -> None:  # type: ignore[override]
        """Log the table and the pictures from rank 0, with the objects of all ranks."""
        if trainer.sanity_checking or not trainer.loggers:
            return
        if self.draws and trainer.world_size > 1:
            parts: list[Any] | None = [None] * trainer.world_size if trainer.is_global_zero else None
            torch.distributed.gather_object(self.seen, parts, dst=0)
            self.seen = {}
            self._keep(seen for part in parts or () for group in part.values() for seen in group)
        if not trainer.is_global_zero:
            return
        title, step = self.title, trainer.fit_loop.epoch_loop._batches_that_stepped  # as Lightning's own metrics
        rows = module.scores.by_modality()
        table = [(name, m.n, m.dsc, m.nsd, m.loss) for name, m in rows.items()]
        log_table(trainer.loggers, title, ("modality", "objects", "DSC", "NSD", "loss"), table, step)
        if title != "validation":
            scores = {f"{title}/dsc_slice256/{name}": m.dsc for name, m in rows.items()}
            scores |= {f"{title}/nsd_slice256/{name}": m.nsd for name, m in rows.items()}
            for logger in trainer.loggers:
                logger.log_metrics(scores, step)
        reader = trainer.datamodule.reader  # type: ignore[attr-defined]
        for modality, found in sorted(self.seen.items()):
            for end, chosen in (("worst", found[: self.worst]), ("best", found[::-1][: self.best])):
                if chosen:
                    pictures, captions = [draw_object(one, reader) for one in chosen], [caption(one) for one in chosen]
                    log_images(trainer.loggers, f"{title}/{end}/{modality}", pictures, captions, step)

    def _keep(self, found: Iterable[SeenObject]) -> None:
        for seen in found:
            self.seen.setdefault(seen.score.modality, []).append(seen)
        self.seen = {modality: extremes(group, self.worst, self.best) for modality, group in self.seen.items()}


def extremes(found: Iterable[SeenObject], worst: int, best: int) -> list[SeenObject]:
    """Return the worst and the best objects, worst first, without duplicates; all of them where there are fewer.

    Names order ties, so that the number of processes has no effect.
    """
    ordered = sorted(found, key=lambda seen: (seen.score.dsc, seen.score.nsd, seen.score.key, seen.score.prompt))
    return [*ordered[:worst], *ordered[max(len(ordered) - best, worst) :]]


def caption(seen: SeenObject) -> str:
    """Return modality, scores in per cent, the slice's key and the number of its prompt."""
    score = seen.score
    return f"{score.modality}  DSC {100 * score.dsc:.1f}  NSD {100 * score.nsd:.1f}  {score.key} box {score.prompt}"


def draw_object(seen: SeenObject, reader: ShardReader) -> NDArray[np.uint8]:
    """Draw an object on its slice: its box dashed, the prediction orange, the ground truth blue."""
    (row,) = np.flatnonzero(reader.keys == seen.score.key)
    image = resize_longest_side(reader.read(int(row)).image, len(seen.mask))
    height, width = image.shape[:2]
    mask, predicted = (array[:height, :width].astype(np.uint8) for array in (seen.mask, seen.predicted))
    return draw_panel(image, seen.box_xyxy[None], predicted, mask, caption=caption(seen))
