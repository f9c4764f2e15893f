"""An exponential moving average of the weights, which is validated, kept as the best, and shipped."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn


class AveragedWeights(EMAWeightAveraging):
    """Lightning's moving average, for runs that are stopped within validation and scored after training.

    Lightning exchanges the weights with their average while it validates. A checkpoint that is stored meanwhile has
    them in each other's place, and a validation after training would replace the best weights by the last average;
    neither happens here. A checkpoint's `state_dict` holds the average where it is stored whole, so
    `callbacks.checkpoint.save_weights_only` must be false.

    Args:
        decay: of the average at every optimizer step; it takes about 1 / (1 - decay) steps to forget.
    """

    def __init__(self, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.averaging.decay is {decay}; required: from 0 to below 1")
        super().__init__(decay=decay)
        self.exchanged = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average during training, and the module's own weights before and after."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)
            self.exchanged = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return to the weights that are trained."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)
            self.exchanged = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as `state_dict`, also within validation."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.exchanged:
            current, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint.update(state_dict=average, current_model_state=current)
