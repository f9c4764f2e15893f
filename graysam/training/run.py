"""One run: train from a config, or resume where it was stopped, and keep what it found in its run directory."""

import logging
import signal
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from graysam.data.datamodule import ShardDataModule
from graysam.imaging.channels import scheme_to_dict
from graysam.metrics.aggregation import MACRO
from graysam.models.weights import METADATA_KEY
from graysam.system.files import write_json_file
from graysam.system.terminal import FAILED, one_line
from graysam.training.checkpoints import BEST, Interrupted, WholeFileIO
from graysam.training.consistency import check_together
from graysam.training.loggers import RunWandbLogger
from graysam.training.module import SamModule
from graysam.training.quantization import QuantizationComparison, text
from graysam.training.run_directory import RunDirectory
from graysam.training.scores import comparison_table, score_filled_boxes
from graysam.training.setup import Build, Config, build_all, build_data, build_module, build_trainer, check_inputs

log = logging.getLogger("graysam.train")
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(  # Lightning advertises its products in each run
    lambda record: not any(product in record.getMessage() for product in ("litlogger", "litmodels"))
)

DEFAULT_THREADS = torch.get_num_threads()
EXPECTED_WARNINGS = (
    "Found .* module.* in eval mode",  # the parts that box prompts never reach are frozen
    "Checkpoint directory .* exists and is not empty",  # a resumed run
    "You're using the WeightAveraging callback with a model that overrides the configure_model",  # nothing is sharded
    ".*LeafSpec.*",  # Lightning uses a deprecated function of torch
    "It is recommended to use `self.log",  # what is logged is already a mean over ranks
)


def run_training(config: Config, build: Build, *, in_sweep: bool = False) -> int:
    """Train a run, or resume it, and return the exit code.

    Args:
        config: all settings as plain containers, see `conf/train.yaml`.
        build: makes the object that a part of the config describes, given further arguments by keyword.
        in_sweep: whether the run is a job of a sweep, which cannot start ranks by itself.

    Returns:
        0; 1 after a failure that one line on the standard error explains; 130 or 143 after Ctrl-C or SIGTERM.

    Raises:
        ValueError: input that cannot be used; the run directory is as it was.
    """
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        check_inputs(config)
        directory = RunDirectory(Path(config["run_dir"]), config)
        summary = directory.read_summary()
        if "trained" in summary:
            print(f"{directory.path} is finished; delete it to run again")
            for callback in build_all(config["callbacks"], build):
                if isinstance(callback, QuantizationComparison) and callback.is_due():  # the config asks for it now
                    print(text(callback.report(build_data(config, build).validation_set())))
            return _print_summary(summary, config)
        torch.set_num_threads(config["threads"] or DEFAULT_THREADS)  # an earlier run of this process may have set it
        lightning.seed_everything(config["seed"], workers=True, verbose=False)
        distillation = build(config["distillation"]) if config["distillation"] else None
        data = build_data(config, build, distillation)
        module = build_module(config, build, data, distillation)
        trainer = build_trainer(config, build)
        check_together(config, trainer, data)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if in_sweep and trainer.world_size > 1 and not (environment and environment.creates_processes_externally):
            raise ValueError(
                f"a sweep's job cannot start {trainer.world_size} processes, each of which would run the whole sweep; "
                "use trainer.devices=1, one run at a time, SLURM or torchrun"
            )
        with directory.lock() if trainer.is_global_zero else nullcontext():
            return _run_and_explain(config, directory, trainer, module, data)


def _run_and_explain(
    config: Config, directory: RunDirectory, trainer: lightning.Trainer, module: SamModule, data: ShardDataModule
) -> int:
    """Run, explain in one line what the machine or the user stopped, and end the W&B run."""
    code = FAILED
    try:
        code = _score_and_train(config, directory, trainer, module, data)
    except Interrupted as stop:
        # Lightning kills rank 0 while it cleans up when another rank ends with a code other than 0.
        code = stop.exit_code if trainer.is_global_zero else 0
        if trainer.is_global_zero:
            print(stop, file=sys.stderr)
    except SystemExit as end:  # Lightning's answer to Ctrl-C while it scores, before or after training
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        code = 128 + signal.SIGINT
        print("stopped by SIGINT; the same command resumes the run", file=sys.stderr)
    except (OSError, RuntimeError) as error:
        what = one_line(error)
        if isinstance(error, torch.OutOfMemoryError):
            what = f"the device is out of memory ({what[:200]}); lower data.batch_size under another name"
        elif "DataLoader worker" in what:
            what = f"a DataLoader worker died ({what[:200]}), probably out of memory; lower data.num_workers"
        elif not isinstance(error, OSError):
            raise
        kept = "the stored checkpoints are kept, and the same command resumes from them"
        print(f"error: {what}; {kept}", file=sys.stderr)
    finally:
        for logger in trainer.loggers:  # Lightning itself ends the others
            if isinstance(logger, RunWandbLogger):
                logger.finish(failed=code != 0)
    return code


def _score_and_train(
    config: Config, directory: RunDirectory, trainer: lightning.Trainer, module: SamModule, data: ShardDataModule
) -> int:
    """Score the model before training where `compare` asks for it, train, score, and return the exit code."""

    def validate() -> dict[str, dict[str, float]]:
        trainer.validate(module, datamodule=data, verbose=False)
        return module.scores.summary()

    summary = directory.read_summary()
    if trainer.is_global_zero:
        shards = data.reader.folders
        directory.claim(ranks=trainer.world_size, weights=module.description["weights"], shards_dirs=shards)
        print(describe(config, trainer, data), flush=True)
        if module.distillation is not None:
            print(f"teacher: {module.distillation.describe()}", flush=True)
    if config["compare"] and "start" not in summary:
        log.info("scoring the model before training, and filled boxes")
        items = data.validation_set()
        filled = score_filled_boxes(items[i] for i in range(len(items)))
        summary = {"start": validate(), "fill the box": filled.summary()}
        if trainer.is_global_zero:
            write_json_file(directory.summary_file, summary)
    best = _fit(trainer, module, data, directory)
    summary |= {"trained": validate(), "objects": sorted(module.scores.rows()), "best_checkpoint": str(best)}
    if not trainer.is_global_zero:
        return 0
    write_json_file(directory.summary_file, summary)
    return _print_summary(summary, config)


def describe(config: Config, trainer: lightning.Trainer, data: ShardDataModule) -> str:
    """Return what is trained, on what and where, also as far as nobody chose it: three lines for a terminal."""
    train, val = (len(data.reader.rows(split=split)) for split in ("train", "val"))
    loggers = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "none"
    dropped = f", without {data.reader.dropped} that another folder holds out" if data.reader.dropped else ""
    return (
        f"run: {config['name']}, seed {config['seed']}, in {config['run_dir']}; loggers: {loggers}\n"
        f"model: {config['model']['name']}, channels {scheme_to_dict(data.scheme)['name']}, on "
        f"{trainer.strategy.root_device}, precision {trainer.precision}, {torch.get_num_threads()} CPU threads\n"
        f"data: {', '.join(map(str, data.reader.folders))}: {train} training and {val} validation slices{dropped}; "
        f"an epoch has {len(data.sampler())} in batches of {trainer.world_size} x {data.batch_size}"
    )


def _fit(trainer: lightning.Trainer, module: SamModule, data: ShardDataModule, directory: RunDirectory) -> Path:
    """Train from the last checkpoint, if there is one, load the best one into the module and return its path."""
    last, best = directory.find_last_checkpoint(), directory.path / "checkpoints" / BEST

    def keep_present_weights() -> None:
        if trainer.is_global_zero:
            content = {"state_dict": module.state_dict(), METADATA_KEY: module.description}
            WholeFileIO().save_checkpoint(content, best)

    if last is not None:
        log.info("resuming from %s", last)
    elif trainer.max_epochs == 0:  # without training the start is the best
        keep_present_weights()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {one_line(error)}") from error
    if not best.is_file():  # a time limit or a callback ended the run early
        log.warning("training was stopped before its first validation: %s holds the last weights, not the best", best)
        keep_present_weights()
    module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    module.train().eval()  # drops TinyViT's cached attention biases
    return best


def _print_summary(summary: dict[str, Any], config: Config) -> int:
    """Print the final table; return 1 where `require_improvement` is set and training did not improve DSC."""
    titles = [title for title in ("start", "fill the box", "trained") if title in summary]
    print(f"\nbest checkpoint by {config['monitor']}: {summary['best_checkpoint']}")
    print("validation, slice-wise at 256 px (%)")
    print(comparison_table({title: summary[title] for title in titles}))
    if config["compare"] and config["require_improvement"]:
        before, after = (summary[title][MACRO]["dsc"] for title in ("start", "trained"))
        if not after > before:
            print(f"error: training did not improve DSC ({100 * before:.2f} -> {100 * after:.2f})", file=sys.stderr)
            return FAILED
    return 0
