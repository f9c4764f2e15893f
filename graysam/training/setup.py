"""Build what a run needs from its config: data, network, LightningModule and Trainer.

Every builder takes the run's config as plain containers, and `build(part, **arguments)`, which makes the object that a
part of the config describes.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor

from graysam.data.datamodule import ShardDataModule
from graysam.imaging.channels import scheme_to_dict
from graysam.models.registry import check_grid, model_config
from graysam.models.sam import Sam
from graysam.models.weights import FORMAT, HEADS, load_embedding_norm, load_parts, load_whole, read_weights, resolve
from graysam.system.terminal import one_line
from graysam.training.checkpoints import WholeFileIO
from graysam.training.consistency import check_options
from graysam.training.distillation import Distillation
from graysam.training.losses import LOGGED
from graysam.training.module import SamModule

log = logging.getLogger("graysam.train")

Config = Mapping[str, Any]
Build = Callable[..., Any]

REMEDIES = {
    "weights": "EfficientViT-SAM's .pt files are at github.com/mit-han-lab/efficientvit; give weights=PATH, or "
    "weights=efficientvit_sam_l0 to download it, or weights=null to start the encoder at random",
    "heads": "medsam_vit_b.pth is at github.com/bowang-lab/MedSAM; give heads=PATH, or heads=lite_medsam",
    "distillation.teacher.weights": "medsam_vit_b.pth is at github.com/bowang-lab/MedSAM",
    "shards": "the challenge's files are at codabench.org/competitions/1847; pack them, or others of their layout: "
    "python -m graysam.pack input_dir=FOLDER output_dir=DIR (source=images where there are no masks); "
    "or use experiment=proposed, which needs no files",
}
LOSS = "|".join(LOGGED.values())
MONITORED = re.compile(rf"val/({LOSS})|train/({LOSS})_epoch|val/(loss|dsc|nsd)_slice256/(macro|(modality|group)/.+)")


def check_inputs(config: Config) -> None:
    """Check that every file the run needs exists, that options are supported and that the monitored metrics are logged.

    Raises:
        ValueError: in one line, all that is missing or wrong, with remedies.
    """
    numbers, data = model_numbers(config), config["data"]
    check_grid(encoder=numbers["encoder"], heads=numbers["heads"], size=data["size"])
    problems = check_options(config)
    files = {key: config[key] for key in ("weights", "heads")}
    if config["distillation"]:
        files["distillation.teacher.weights"] = config["distillation"]["teacher"].get("weights")
    for key, file in files.items():
        try:
            if file is not None:
                resolve(file)
        except ValueError as error:
            problems.append(f"{key}: {error}; {REMEDIES[key]}")
    folders = [*([] if data["prepare"] else [data["shards_dir"]]), *data["further_shards"]]
    if absent := [str(folder) for folder in folders if not (Path(folder) / "manifest.json").is_file()]:
        problems.append(f"no shards in {', '.join(absent)}: {REMEDIES['shards']}")
    if config["match_embedding_scale"] and config["heads"] is None:
        problems.append("match_embedding_scale=true takes the scale from the heads' file, but heads is null")
    modes = {"monitor": "monitor_mode"} | ({"scheduler_monitor": "scheduler_mode"} if config["scheduler"] else {})
    for key, mode_key in modes.items():
        metric = config[key]
        better = "min" if "/loss" in metric or "error" in metric else "max"
        if not MONITORED.fullmatch(metric):
            problems.append(
                f"{key} {metric} is not logged; logged are val/loss, train/loss_epoch, val/dsc_slice256/macro, "
                "val/nsd_slice256/modality/<modality> and the like"
            )
        elif config[mode_key] != better:
            problems.append(f"{key} {metric} needs {mode_key}={better}; it is {config[mode_key]}")
    if ".." in Path(config["name"]).parts or Path(config["name"]).is_absolute():
        problems.append(f"name {config['name']} leads out of the runs' folder")
    if problems:
        raise ValueError(" | ".join(problems))


def build_data(config: Config, build: Build, distillation: Distillation | None = None) -> ShardDataModule:
    """Build the data module and read its shards (the demo's are made first).

    Raises:
        ValueError: no shards, or images without masks and no teacher.
    """
    scheme = build(config["channels"])
    teacher_scheme = None if distillation is None else distillation.teacher.scheme
    data: ShardDataModule = build(
        config["data"],
        scheme=scheme,
        teacher_scheme=teacher_scheme if teacher_scheme != scheme else None,
        jitter=build(config["jitter"]),
        views=build(config["views"]),
        augmentations=build_all(config["augment"], build),
    )
    data.prepare_data()
    data.setup()
    if distillation is None and len(data.reader.rows(split="unlabelled")):
        raise ValueError(
            "data.further_shards holds images without masks, from which only a student of a teacher learns; "
            "add distillation=lite_medsam, or omit them"
        )
    return data


def build_module(
    config: Config, build: Build, data: ShardDataModule, distillation: Distillation | None = None
) -> SamModule:
    """Build the LightningModule around model, loss, optimizer and scheduler, and load the weights to start from."""
    model: Sam = build(config["model"])
    sources = []
    if config["weights"] is not None:
        sources.append(load_whole(model, read_weights(config["weights"])))
    if config["heads"] is not None:
        heads = read_weights(config["heads"])
        sources.append(load_parts(model, heads, HEADS))
        if config["match_embedding_scale"]:
            sources.append(load_embedding_norm(model, heads))
    for source in sources:
        log.info("weights: %s", source.describe())
    if not any("image_encoder" in source.parts for source in sources):
        log.info("weights: what no file was given for starts at random in the image encoder")
    return SamModule(
        model=model,
        loss=build(config["loss"]),
        optimizer=build(config["optimizer"]),
        scheduler=build(config["scheduler"]) if config["scheduler"] else None,
        monitor=config["scheduler_monitor"],
        frozen=[*config["unused"], *config["frozen"]],
        channels_last=config["channels_last"],
        sync_batchnorm=config["sync_batchnorm"],
        compile=config["compile"],
        description={
            "format": FORMAT,
            "model": model_numbers(config),
            "channels": scheme_to_dict(data.scheme),
            "size": config["data"]["size"],
            "weights": [asdict(source) for source in sources],
            "versions": {"torch": torch.__version__.split("+")[0], "lightning": lightning.__version__},
            "experiment": config["name"],
            "seed": config["seed"],
        },
        distillation=distillation,
        lr_factors=config["lr_factors"],
    )


def build_trainer(config: Config, build: Build) -> lightning.Trainer:
    """Build the Trainer with its callbacks and loggers."""
    loggers, callbacks = build_all(config["logger"], build), build_all(config["callbacks"], build)
    if not loggers:  # Lightning refuses to monitor the learning rate without a logger
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


def model_numbers(config: Config) -> dict[str, Any]:
    """Return all numbers of the config's model, as `build_sam` takes them."""
    return model_config(**{key: value for key, value in config["model"].items() if key != "_target_"})


def build_all(group: Config, build: Build) -> list[Any]:
    """Build every entry of a group of objects; null entries are skipped."""
    return [build(part) for part in group.values() if part is not None]
