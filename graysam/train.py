"""Train a model: `python -m graysam.train experiment=NAME key=value ...`.

Composes the config, builds data and model, loads weights strictly, trains, and keeps the best checkpoint by validation
loss. With `compare=true` it ends with three figures per modality: the untrained model, "fill the whole box", and the
trained model.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from graysam.extras import require

require("train")

import lightning  # noqa: E402
import torch  # noqa: E402
from lightning.fabric.utilities.exceptions import MisconfigurationException  # noqa: E402
from lightning.pytorch.callbacks import LearningRateMonitor  # noqa: E402

from graysam.config.building import build, build_all  # noqa: E402
from graysam.config.command import entry_point  # noqa: E402
from graysam.data.datamodule import ShardDataModule  # noqa: E402
from graysam.imaging.presets import scheme_to_dict  # noqa: E402
from graysam.models.build import check_grid  # noqa: E402
from graysam.models.sam import Sam  # noqa: E402
from graysam.models.weights import (  # noqa: E402
    FORMAT,
    WeightSource,
    load_embedding_norm,
    load_heads,
    load_whole,
    read_weights,
    resolve,
)
from graysam.terminal import one_line  # noqa: E402
from graysam.training.module import SamModule  # noqa: E402
from graysam.training.run_directory import RunDirectory  # noqa: E402
from graysam.training.scores import MACRO, comparison_table, score_filled_boxes  # noqa: E402

log = logging.getLogger("graysam.train")

REMEDIES = {
    "weights": "give weights=PATH of EfficientViT-SAM's .pt file, or weights=efficientvit_sam_l0 to download it, "
    "or weights=null to start the encoder at random",
    "heads": "give heads=PATH of MedSAM's or SAM's .pth file, or heads=lite_medsam",
    "shards": "pack some: python -m graysam.pack input_dir=FOLDER_OF_NPZ output_dir=DIR, then data.shards_dir=DIR; "
    "or use data=demo",
}


def prepare_data(config: dict[str, Any]) -> ShardDataModule:
    """Build the data module and read (for the demo, first make) its shards."""
    data: ShardDataModule = build(
        config["data"],
        scheme=build(config["channels"]),
        jitter=build(config["jitter"]),
        augmentations=build_all(config["augment"]),
    )
    data.prepare_data()
    data.setup()
    return data


def check_inputs(config: dict[str, Any]) -> None:
    """Look for every file that the run needs, and name all that are missing with their remedies.

    Raises:
        ValueError: in one line.
    """
    check_grid(encoder=config["model"]["encoder"], heads=config["model"]["heads"], size=config["data"]["size"])
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
    if config["match_embedding_scale"] and config["heads"] is None:
        problems.append("match_embedding_scale=true takes the scale from the heads' file, but heads is null")
    if problems:
        raise ValueError(" | ".join(problems))


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


def prepare_module(config: dict[str, Any], data: ShardDataModule) -> SamModule:
    """Build the LightningModule around model, loss, optimizer and scheduler."""
    model, sources = prepare_model(config)
    description = {
        "format": FORMAT,
        "model": {key: value for key, value in config["model"].items() if key != "_target_"},
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
        monitor=config["monitor"],
        frozen=[*config["unused"], *config["frozen"]],
        channels_last=config["channels_last"],
        description=description,
    )


def prepare_trainer(config: dict[str, Any]) -> lightning.Trainer:
    """Build the Trainer with its callbacks and loggers."""
    loggers = build_all(config["logger"])
    callbacks = build_all(config["callbacks"])
    if not loggers:  # Lightning refuses to watch the learning rate when nobody would be told
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    try:
        return build(
            config["trainer"], default_root_dir=config["run_dir"], callbacks=callbacks, logger=loggers or False
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
    """Print the final table; return 1 when training had to improve on the untrained model and did not."""
    titles = [title for title in ("untrained", "fill the box", "trained") if title in summary]
    print(f"\nbest checkpoint by {config['monitor']}: {summary['best_checkpoint']}")
    print("validation, slice-wise at 256 px (%)")
    print(comparison_table({title: summary[title] for title in titles}))
    if config["compare"] and config["require_improvement"]:
        before, after = (summary[title][MACRO]["dsc"] for title in ("untrained", "trained"))
        if not after > before:
            print(f"error: training did not improve DSC ({100 * before:.2f} -> {100 * after:.2f})", file=sys.stderr)
            return 1
    return 0


def run(config: dict[str, Any]) -> int:
    """Carry out one run, or go on with it, and return its exit code."""
    check_inputs(config)
    directory = RunDirectory(Path(config["run_dir"]), config)
    summary = directory.read_summary()
    if "trained" in summary:
        print(f"{directory.path} is finished; delete it to run again")
        return print_summary(summary, config)
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data = prepare_data(config)
    module = prepare_module(config, data)
    trainer = prepare_trainer(config)
    directory.claim()
    if config["compare"] and "untrained" not in summary:
        log.info("scoring the untrained model and filled boxes")
        summary = {"untrained": validate(trainer, module, data), "fill the box": filled_boxes(data)}
        if trainer.is_global_zero:
            directory.write_summary(summary)
    resume = directory.last_checkpoint
    if resume is not None:
        log.info("going on from %s", resume)
    trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    best = load_best(directory, module)
    summary |= {"trained": validate(trainer, module, data), "best_checkpoint": str(best)}
    if not trainer.is_global_zero:
        return 0
    directory.write_summary(summary)
    return print_summary(summary, config)


@entry_point("train")
def main(config: dict[str, Any]) -> int:
    """Run the composed config."""
    return run(config)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The parts that box prompts never reach are frozen on purpose, and so in evaluation mode.
    warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run that goes on
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning asks torch's pytree in a deprecated way
    sys.exit(main())
