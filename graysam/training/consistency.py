"""Settings of trainer, schedule, callbacks and data that contradict each other, found before anything runs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from graysam.data.datamodule import ShardDataModule
from graysam.training.averaging import AveragedWeights
from graysam.training.checkpoints import BEST

Config = Mapping[str, Any]

PRECISIONS = ("None", "32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")
# Option of the Trainer -> its values with which a run ends well, and what to do instead of others.
SUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "precision": (PRECISIONS, "weights stay in 32 bits; use 32-true, bf16-mixed or 16-mixed"),
    "fast_dev_run": ((False, 0), "it keeps no checkpoint; use trainer.limit_train_batches=2 trainer.max_epochs=1"),
    "overfit_batches": (
        (0,),
        "it replaces the balanced sampler; pack a few cases, or limit epochs by data.samples_per_group and "
        "trainer.limit_train_batches",
    ),
    "barebones": ((False,), "it keeps no checkpoint; leave it out"),
    "enable_checkpointing": (
        (True, None),
        "a run is resumed from its checkpoints and ends with the best; leave it out",
    ),
    "use_distributed_sampler": ((False,), "the balanced sampler distributes samples over ranks itself; use false"),
}


@dataclass(frozen=True)
class Plan:
    """How long a run trains and validates, as far as its settings say so; inf without a limit.

    Attributes:
        batches: training batches of an epoch and rank.
        steps: optimizer steps of an epoch.
        epochs: of the run, the last one perhaps in part.
        validated: rows of the index that a validation reads.
        validations: of the run.
    """

    batches: int
    steps: int
    epochs: float
    validated: np.ndarray
    validations: float


def make_plan(trainer: lightning.Trainer, data: ShardDataModule) -> Plan:
    """Return the plan of a run with a Trainer on data."""
    ranks = trainer.world_size
    batches = _limited(math.ceil(len(data.sampler(0, ranks)) / data.batch_size), trainer.limit_train_batches)
    steps = math.ceil(batches / trainer.accumulate_grad_batches)
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs)
    total = epochs * batches if epochs else 0.0
    if trainer.max_steps != -1:
        epochs = min(epochs, trainer.max_steps / steps if steps else 0)
        whole, rest = divmod(trainer.max_steps, steps) if steps else (0, 0)
        total = min(total, whole * batches + rest * trainer.accumulate_grad_batches)
    held_out = data.reader.rows("val")
    val_batches = _limited(math.ceil(len(held_out) / ranks / data.val_batch_size), trainer.limit_val_batches)
    every, every_epochs = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if not isinstance(every, int | float):  # a time
        validations = math.inf
    elif every_epochs is None:
        validations = total // every
    else:
        interval = every if isinstance(every, int) else max(1, int(batches * every))
        each = batches // interval if interval else 0
        whole_epochs, rest_batches = divmod(total, batches) if batches and total < math.inf else (total, 0)
        validations = whole_epochs // every_epochs * each if each else 0.0
        if (whole_epochs + 1) % every_epochs == 0:  # within the last epoch
            validations += rest_batches // interval
    return Plan(
        batches,
        steps,
        math.ceil(epochs) if epochs < math.inf else epochs,
        held_out[: val_batches * data.val_batch_size * ranks],
        validations,
    )


def check_options(config: Config) -> list[str]:
    """Return what is wrong with single options of the trainer, before it is built."""
    trainer = config["trainer"]
    return [
        f"trainer.{name}={trainer[name]} is not supported: {remedy}"
        for name, (values, remedy) in SUPPORTED.items()
        if name in trainer and (str(trainer[name]) if name == "precision" else trainer[name]) not in values
    ]


def check_together(config: Config, trainer: lightning.Trainer, data: ShardDataModule) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ValueError: in one line, all contradictions, each with both settings and a remedy.
    """
    plan = make_plan(trainer, data)
    problems = [*_lengths(config, trainer, data, plan), *_metrics(config, trainer, data, plan)]
    if trainer.max_epochs != 0:
        problems += [*_schedule(config, plan), *_checkpoint(config, trainer, plan)]
    if problems:
        raise ValueError(" | ".join(problems))


def _lengths(config: Config, trainer: lightning.Trainer, data: ShardDataModule, plan: Plan) -> Iterator[str]:
    """Training that has no batch, no end or an end before its beginning; validation of nothing."""
    given = config["trainer"]
    if not plan.batches and trainer.max_epochs != 0:
        yield f"trainer.limit_train_batches={given['limit_train_batches']} leaves no batch of an epoch; raise it"
    if not len(plan.validated):
        yield (
            f"trainer.limit_val_batches={given['limit_val_batches']} leaves nothing to validate, so that "
            f"monitor={config['monitor']} chooses no checkpoint; raise it"
        )
    ends = (EarlyStopping, Timer)
    if plan.epochs == math.inf and not any(isinstance(callback, ends) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        yield (
            f"trainer.max_epochs={given['max_epochs']} with trainer.max_steps={given['max_steps']} never ends; give "
            "one of them, trainer.max_time or a callback that stops"
        )
    for unit in ("epochs", "steps"):
        least, most = given.get(f"min_{unit}"), given.get(f"max_{unit}")
        if least is not None and most not in (None, -1) and least > most:
            yield f"trainer.min_{unit}={least} is above trainer.max_{unit}={most}; lower it"
    every = given["val_check_interval"]
    if isinstance(every, int) and trainer.check_val_every_n_epoch is not None and every > plan.batches > 0:
        yield (
            f"trainer.val_check_interval={every} is above the {plan.batches} batches of an epoch (by "
            "data.samples_per_group and data.batch_size); lower it, or set trainer.check_val_every_n_epoch=null"
        )


def _metrics(config: Config, trainer: lightning.Trainer, data: ShardDataModule, plan: Plan) -> Iterator[str]:
    """Metrics that this run does not log."""
    monitored = {"monitor": config["monitor"]}
    if config["scheduler"]:
        monitored["scheduler_monitor"] = config["scheduler_monitor"]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            monitored["EarlyStopping.monitor"] = callback.monitor
    names = {"group": data.reader.groups[plan.validated], "modality": data.reader.modalities[plan.validated]}
    for key, metric in monitored.items():
        *_, kind, name = f"/{metric}".split("/")
        if kind in names and len(plan.validated) and name not in names[kind]:
            limit = config["trainer"]["limit_val_batches"]
            yield (
                f"{key}={metric} is not logged: no {kind} {name} among the {len(plan.validated)} slices validated with "
                f"trainer.limit_val_batches={limit}; it is one of {', '.join(np.unique(names[kind]))}"
            )
        if "embedding_error" in metric and not config["distillation"]:
            yield f"{key}={metric} is logged with a teacher only, but distillation=none; use val/loss"
        if "prompt_error" in metric and (metric.startswith("val/") or not config["distillation"].get("prompt_weight")):
            yield f"{key}={metric} is not logged; train/prompt_error_epoch is, with distillation.prompt_weight above 0"


def _schedule(config: Config, plan: Plan) -> Iterator[str]:
    """Schedules of another length than the run; most step once an epoch."""
    scheduler, given = config["scheduler"] or {}, config["trainer"]
    stops = f"trainer.max_epochs={given['max_epochs']} and trainer.max_steps={given['max_steps']}"
    if "T_max" in scheduler:
        period = scheduler["T_max"]
        follows = period == given["max_epochs"] and period != plan.epochs and plan.epochs < math.inf
        if follows or not isinstance(period, int) or period < 1:
            use = f"{plan.epochs}" if plan.epochs < math.inf else "EPOCHS"
            yield (
                f"scheduler.T_max={period} is not the number of epochs by {stops}, so that the rate would not fall to "
                f"0 at the end; set scheduler.T_max={use}"
            )
    if (ramp := scheduler.get("total_iters")) is not None and ramp > plan.epochs:
        yield f"scheduler.total_iters={ramp} is longer than the {plan.epochs} epochs by {stops}; lower it"
    total = scheduler.get("total_steps")
    if "warmup_steps" in scheduler:  # it follows optimizer steps
        if not scheduler["warmup_steps"] < scheduler["total_steps"] == given["max_steps"] <= plan.epochs * plan.steps:
            yield (
                f"scheduler.total_steps={total} with scheduler.warmup_steps={scheduler['warmup_steps']} is not the "
                f"number of optimizer steps by {stops}, so that the rate would not fall to 0 at the end; set "
                "trainer.max_steps above the warm-up, and trainer.max_epochs=-1"
            )
    elif total is not None and total < plan.epochs:
        yield f"scheduler.total_steps={total} ends before the epochs by {stops}; set it to their number"


def _checkpoint(config: Config, trainer: lightning.Trainer, plan: Plan) -> Iterator[str]:
    """Runs that keep no checkpoint."""
    given = config["trainer"]
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    if not any(f"{callback.filename}.ckpt" == BEST and callback.save_top_k for callback in kept):
        yield (
            f"callbacks.checkpoint keeps no {BEST} by monitor={config['monitor']}; leave its filename and save_top_k "
            "as they are in conf/callbacks/default.yaml"
        )
    if any(isinstance(callback, AveragedWeights) for callback in trainer.callbacks) and any(  # type: ignore[attr-defined]
        callback.save_weights_only for callback in kept
    ):
        yield "callbacks.averaging needs callbacks.checkpoint.save_weights_only=false: use callbacks=ema"
    if not plan.validations and len(plan.validated) and plan.batches:
        limits = {name: given[name] for name in ("max_epochs", "max_steps", "limit_train_batches")}
        rhythm = {name: given[name] for name in ("check_val_every_n_epoch", "val_check_interval")}
        ends, begins = (", ".join(f"trainer.{k}={v}" for k, v in part.items()) for part in (limits, rhythm))
        yield (
            f"training ends ({ends}; {plan.batches} batches an epoch) before its first validation ({begins}), so that "
            "no checkpoint is chosen; train longer or validate more often"
        )


def _limited(batches: int, limit: float | None) -> int:
    """Return how many batches a limit leaves: a number of them, or as a float a part."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
