"""Train a model: `python -m graysam.train experiment=NAME key=value ...`.

Composes the config, builds data and model, loads weights strictly, trains, and keeps the best checkpoint by validation
loss. With `compare=true` it ends with three figures per modality: the model before training, "fill the whole box", and
the trained model.
"""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from graysam.system.extras import require

require("train")

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.fabric.utilities.exceptions import MisconfigurationException  # noqa: E402
from lightning.pytorch.callbacks import LearningRateMonitor  # noqa: E402

from graysam.config.building import build, build_all  # noqa: E402
from graysam.config.command import entry_point  # noqa: E402
from graysam.config.sweeping import in_sweep  # noqa: E402
from graysam.data.datamodule import ShardDataModule  # noqa: E402
from graysam.data.shards import load_manifest  # noqa: E402
from graysam.imaging.presets import scheme_to_dict  # noqa: E402
from graysam.models.build import check_grid  # noqa: E402
from graysam.models.registry import model_config  # noqa: E402
from graysam.models.sam import Sam  # noqa: E402
from graysam.models.weights import (  # noqa: E402
    FORMAT,
    METADATA_KEY,
    WeightSource,
    load_embedding_norm,
    load_heads,
    load_whole,
    read_weights,
    resolve,
)
from graysam.system.terminal import FAILED, one_line  # noqa: E402
from graysam.training.checkpoints import BEST, CheckpointNotWritten, WholeFileIO  # noqa: E402
from graysam.training.dashboards import finish_loggers  # noqa: E402
from graysam.training.distillation import Distillation  # noqa: E402
from graysam.training.interrupts import Interrupted  # noqa: E402
from graysam.training.metric_names import check_monitor  # noqa: E402
from graysam.training.module import SamModule  # noqa: E402
from graysam.training.progress import hide_advertisements  # noqa: E402
from graysam.training.provenance import provenance, start  # noqa: E402
from graysam.training.quantization_callback import QuantizeBenchmark  # noqa: E402
from graysam.training.quantization_table import text  # noqa: E402
from graysam.training.run_directory import RunDirectory  # noqa: E402
from graysam.training.scores import MACRO, comparison_table, score_filled_boxes  # noqa: E402

log = logging.getLogger("graysam.train")

DEFAULT_THREADS = torch.get_num_threads()
REMEDIES = {
    "weights": "give weights=PATH of EfficientViT-SAM's .pt file, or weights=efficientvit_sam_l0 to download it, "
    "or weights=null to start the encoder at random",
    "heads": "give heads=PATH of MedSAM's or SAM's .pth file, or heads=lite_medsam",
    "shards": "pack some: python -m graysam.pack input_dir=FOLDER_OF_NPZ output_dir=DIR, then data.shards_dir=DIR; "
    "or use data=demo",
    "further_shards": "pack them (images without masks: python -m graysam.pack source=images "
    "input_dir=FOLDER_OF_IMAGES output_dir=DIR), or leave them out with data.further_shards=[]",
}


def prepare_distillation(config: dict[str, Any]) -> Distillation | None:
    """Build the teacher and its loss, where the config has one."""
    return build(config["distillation"]) if config["distillation"] else None


def open_cache(distillation: Distillation, config: dict[str, Any], data: ShardDataModule) -> None:
    """Open what is kept of the teacher's embeddings, in a place for just these images in just these views."""
    facts = {
        "shards": [load_manifest(folder)["index"]["sha256"] for folder in (data.shards_dir, *data.further_shards)],
        "augment": config["augment"],
        "channels": scheme_to_dict(distillation.scheme),
        "data": {key: config["data"][key] for key in ("seed", "size", "boxes_per_image")},
    }
    distillation.open_cache(json.dumps(facts, sort_keys=True))


def prepare_data(config: dict[str, Any], distillation: Distillation | None = None) -> ShardDataModule:
    """Build the data module and read (for the demo, first make) its shards."""
    scheme = build(config["channels"])
    other_channels = distillation is not None and distillation.scheme != scheme
    data: ShardDataModule = build(
        config["data"],
        scheme=scheme,
        teacher_scheme=distillation.scheme if distillation is not None and other_channels else None,
        jitter=build(config["jitter"]),
        augmentations=build_all(config["augment"]),
    )
    data.prepare_data()
    data.setup()
    if distillation is not None:
        open_cache(distillation, config, data)
    elif data.unlabelled:
        raise ValueError(
            "data.further_shards holds images without masks, from which only a student of a teacher learns; "
            "add distillation=lite_medsam, or leave them out"
        )
    return data


def check_inputs(config: dict[str, Any]) -> None:
    """Look for every file that the run needs, and name all that are missing with their remedies.

    Raises:
        ValueError: in one line.
    """
    numbers = model_numbers(config)
    check_grid(encoder=numbers["encoder"], heads=numbers["heads"], size=config["data"]["size"])
    problems = []
    for key in ("weights", "heads"):
        if config[key] is not None:
            try:
                resolve(config[key])
            except ValueError as error:
                problems.append(f"{key}: {error}; {REMEDIES[key]}")
    shards_dir = Path(config["data"]["shards_dir"])
    if config["data"]["prepare"] is None and not (shards_dir / "manifest.json").is_file():
        problems.append(f"no shards in {shards_dir}: {REMEDIES['shards']}")
    for folder in config["data"]["further_shards"]:
        if not (Path(folder) / "manifest.json").is_file():
            problems.append(f"no shards in {folder}: {REMEDIES['further_shards']}")
    if config["match_embedding_scale"] and config["heads"] is None:
        problems.append("match_embedding_scale=true takes the scale from the heads' file, but heads is null")
    problems += check_monitor("monitor", config["monitor"], "monitor_mode", config["monitor_mode"])
    if config["scheduler"]:
        watched, mode = config["scheduler_monitor"], config["scheduler_mode"]
        problems += check_monitor("scheduler_monitor", watched, "scheduler_mode", mode)
    if ".." in Path(config["name"]).parts or Path(config["name"]).is_absolute():
        problems.append(f"name {config['name']} leads out of the runs' folder")
    if problems:
        raise ValueError(" | ".join(problems))


def model_numbers(config: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of the config's model, as `build_sam` takes them."""
    return model_config(**{key: value for key, value in config["model"].items() if key != "_target_"})


def prepare_model(config: dict[str, Any]) -> tuple[Sam, list[WeightSource]]:
    """Build the network and load the weights it starts from."""
    model: Sam = build(config["model"])
    sources = []
    if config["weights"] is not None:
        sources.append(load_whole(model, read_weights(config["weights"])))
    if config["heads"] is not None:
        heads = read_weights(config["heads"])
        sources.append(load_heads(model, heads))
        if config["match_embedding_scale"]:
            sources.append(load_embedding_norm(model, heads))
    for source in sources:
        log.info("weights: %s", source.describe())
    if not any("image_encoder" in source.parts for source in sources):
        log.info("weights: the rest of the image encoder starts at random")
    return model, sources


def prepare_module(
    config: dict[str, Any], data: ShardDataModule, distillation: Distillation | None = None
) -> SamModule:
    """Build the LightningModule around model, loss, optimizer and scheduler."""
    model, sources = prepare_model(config)
    description = {
        "format": FORMAT,
        "model": model_numbers(config),
        "channels": scheme_to_dict(data.scheme),
        "size": config["data"]["size"],
        "weights": [source.to_dict() for source in sources],
        "versions": {"torch": torch.__version__.split("+")[0], "lightning": lightning.__version__},
        "experiment": config["name"],
        "seed": config["seed"],
    }
    return SamModule(
        model=model,
        loss=build(config["loss"]),
        optimizer=build(config["optimizer"]),
        scheduler=build(config["scheduler"]) if config["scheduler"] else None,
        monitor=config["scheduler_monitor"],
        frozen=[*config["unused"], *config["frozen"]],
        channels_last=config["channels_last"],
        sync_batchnorm=config["sync_batchnorm"],
        description=description,
        distillation=distillation,
        lr_factors=config["lr_factors"],
    )


def prepare_trainer(config: dict[str, Any]) -> lightning.Trainer:
    """Build the Trainer with its callbacks and loggers."""
    loggers = build_all(config["logger"])
    callbacks = build_all(config["callbacks"])
    if not loggers:  # Lightning refuses to watch the learning rate when nobody would be told
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    try:
        return build(
            config["trainer"],
            default_root_dir=config["run_dir"],
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[WholeFileIO()],
        )
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {one_line(error)}") from error


def filled_boxes(data: ShardDataModule) -> dict[str, dict[str, float]]:
    """Return the scores of "everything inside the box" on the validation slices."""
    items = data.validation_set()
    parts = (items[i] for i in range(len(items)))
    scores = score_filled_boxes(
        ((item.group, item.modality, item.boxes.numpy(), item.masks.numpy()) for item in parts), data.size
    )
    return scores.summary()


def validate(trainer: lightning.Trainer, module: SamModule, data: ShardDataModule) -> dict[str, dict[str, float]]:
    """Validate and return DSC and NSD per modality."""
    trainer.validate(module, datamodule=data, verbose=False)
    return module.scores.summary()


def load_best(directory: RunDirectory, module: SamModule) -> Path:
    """Load the best checkpoint into the module and return its path."""
    path = directory.best_checkpoint
    if path is None:
        raise ValueError(
            f"no checkpoint was kept: {module.monitor} was never logged; train for at least one validation"
        )
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    module.train().eval()  # drops TinyViT's cached attention biases
    return path


def print_summary(summary: dict[str, Any], config: dict[str, Any]) -> int:
    """Print the final table; return 1 when training had to improve on the model before it and did not."""
    titles = [title for title in ("start", "fill the box", "trained") if title in summary]
    print(f"\nbest checkpoint by {config['monitor']}: {summary['best_checkpoint']}")
    print("validation, slice-wise at 256 px (%)")
    print(comparison_table({title: summary[title] for title in titles}))
    if config["compare"] and config["require_improvement"]:
        before, after = (summary[title][MACRO]["dsc"] for title in ("start", "trained"))
        if not after > before:
            print(f"error: training did not improve DSC ({100 * before:.2f} -> {100 * after:.2f})", file=sys.stderr)
            return 1
    return 0


def fit(trainer: lightning.Trainer, module: SamModule, data: ShardDataModule, directory: RunDirectory) -> Path:
    """Train from the last checkpoint, if there is one, and return the best one's path."""
    resume = directory.find_last_checkpoint()
    if resume is not None:
        log.info("going on from %s", resume)
    elif trainer.max_epochs == 0 and trainer.is_global_zero:  # nothing is trained: the start is the best there is
        content = {"state_dict": module.state_dict(), METADATA_KEY: module.description}
        WholeFileIO().save_checkpoint(content, directory.path / "checkpoints" / BEST)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {one_line(error)}") from error
    return load_best(directory, module)


def carry_out(
    config: dict[str, Any],
    directory: RunDirectory,
    trainer: lightning.Trainer,
    module: SamModule,
    data: ShardDataModule,
) -> int:
    """Score the model before training where that is wanted, train, score, and return the exit code."""
    summary = directory.read_summary()
    if trainer.is_global_zero:
        origin = provenance(
            name=config["name"],
            seed=config["seed"],
            ranks=trainer.world_size,
            weights=module.description["weights"],
            shards_dirs=[data.shards_dir, *data.further_shards],
        )
        directory.claim(origin, start())
    if config["compare"] and "start" not in summary:
        log.info("scoring the model before training, and filled boxes")
        summary = {"start": validate(trainer, module, data), "fill the box": filled_boxes(data)}
        if trainer.is_global_zero:
            directory.write_summary(summary)
    best = fit(trainer, module, data, directory)
    trained = validate(trainer, module, data)
    summary |= {"trained": trained, "objects": sorted(module.scores.rows()), "best_checkpoint": str(best)}
    if not trainer.is_global_zero:
        return 0
    directory.write_summary(summary)
    return print_summary(summary, config)


def run(config: dict[str, Any]) -> int:
    """Carry out one run, or go on with it, and return its exit code."""
    check_inputs(config)
    directory = RunDirectory(Path(config["run_dir"]), config)
    summary = directory.read_summary()
    if "trained" in summary:
        print(f"{directory.path} is finished; delete it to run again")
        compare_kinds_anew(config)
        return print_summary(summary, config)
    torch.set_num_threads(config["threads"] or DEFAULT_THREADS)  # another run of this process may have set its own
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    distillation = prepare_distillation(config)
    data = prepare_data(config, distillation)
    module = prepare_module(config, data, distillation)
    trainer = prepare_trainer(config)
    refuse_ranks_in_a_sweep(trainer)
    if trainer.is_global_zero:
        directory.lock()
    code = FAILED
    try:
        code = carry_out(config, directory, trainer, module, data)
    except Interrupted as stop:
        # a rank that ends with another code than 0 makes Lightning kill the first one while it tidies up
        code = stop.exit_code if trainer.is_global_zero else 0
        if trainer.is_global_zero:
            print(stop, file=sys.stderr)
    except (OSError, RuntimeError) as error:
        print(f"error: {lasting_failure(error)}", file=sys.stderr)
    finally:
        finish_loggers(trainer.loggers, failed=code != 0)
        directory.unlock()
    return code


def refuse_ranks_in_a_sweep(trainer: lightning.Trainer) -> None:
    """Raise ValueError for a sweep's job that would start ranks by itself: each would run the whole command line."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = environment is not None and environment.creates_processes_externally
    if trainer.world_size > 1 and in_sweep() and not launched:
        raise ValueError(
            f"a sweep's job cannot use {trainer.world_size} devices: Lightning would start the other ranks by giving "
            "the whole sweep's command line once more; use trainer.devices=1, one run at a time, SLURM or torchrun"
        )


def compare_kinds_anew(config: dict[str, Any]) -> None:
    """Quantize and measure a finished run's best checkpoint where `quantize` asks for what was not measured yet."""
    for callback in build_all(config["callbacks"]):
        if isinstance(callback, QuantizeBenchmark) and not callback.is_current():
            print(text(callback.report(prepare_data(config).validation_set())))


def lasting_failure(error: OSError | RuntimeError) -> str:
    """Return one line for what the machine, and not the input, did to a run; any other error is raised again."""
    after = "what was stored before is kept, and the same command goes on from there"
    text = one_line(error)
    if isinstance(error, CheckpointNotWritten):
        return text
    if isinstance(error, torch.OutOfMemoryError):
        return f"the device has too little memory ({text[:200]}); lower data.batch_size under another name; {after}"
    if "DataLoader worker" in text:
        return f"a reading process died ({text[:200]}): mostly for want of memory; lower data.num_workers; {after}"
    if isinstance(error, OSError):
        return f"{text}; {after}"
    raise error


@entry_point("train")
def main(config: dict[str, Any]) -> int:
    """Run the composed config; also what a cluster's job calls, in a process of its own."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    hide_advertisements()
    with warnings.catch_warnings():
        # The parts that box prompts never reach are frozen on purpose, and so in evaluation mode.
        warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # as it goes on
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning asks torch's pytree in a deprecated way
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log")  # what is logged is over ranks
        return run(config)


if __name__ == "__main__":
    sys.exit(main())
