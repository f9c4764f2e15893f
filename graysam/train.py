"""Train a model: `python -m graysam.train experiment=NAME key=value ...`.

Composes the config, builds data and model, loads weights strictly, trains, and keeps the best checkpoint by validation
loss. With `compare=true` it ends with three figures per modality: the untrained model, "fill the whole box", and the
trained model.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from graysam.extras import require

require("train")

import lightning  # noqa: E402
import torch  # noqa: E402

from graysam.config import build, entry_point  # noqa: E402
from graysam.data.datamodule import ShardDataModule  # noqa: E402
from graysam.imaging.presets import scheme_to_dict  # noqa: E402
from graysam.models.build import build_sam  # noqa: E402
from graysam.models.sam import Sam  # noqa: E402
from graysam.models.weights import (  # noqa: E402
    WeightSource,
    load_embedding_norm,
    load_heads,
    load_whole,
    read_weights,
    resolve,
)
from graysam.training.module import SamModule  # noqa: E402
from graysam.training.run_directory import SUMMARY_FILE, open_run, write_json  # noqa: E402
from graysam.training.scores import MACRO, comparison_table, score_filled_boxes  # noqa: E402

log = logging.getLogger("graysam.train")

REMEDIES = {
    "weights": "give weights=PATH of EfficientViT-SAM's .pt file, or weights=null to start the encoder at random",
    "heads": "give heads=PATH of MedSAM's or SAM's .pth file, or heads=lite_medsam",
    "shards": "pack some: python -m graysam.pack input_dir=FOLDER_OF_NPZ output_dir=DIR, then data.shards_dir=DIR; "
    "or use data=demo",
}


def prepare_data(config: dict[str, Any]) -> ShardDataModule:
    """Build the data module and read (for the demo, first make) its shards."""
    # Order matters nowhere: each augmentation of the group is one entry.
    augmentations = [build(entry) for entry in config["augment"].values()]
    data: ShardDataModule = build(
        config["data"],
        scheme=build(config["channels"]),
        jitter=build(config["jitter"]),
        augmentations=augmentations,
    )
    data.prepare_data()
    data.setup()
    return data


def check_inputs(config: dict[str, Any]) -> None:
    """Look for every file that the run needs, and name all that are missing with their remedies.

    Raises:
        ValueError: in one line.
    """
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
    if problems:
        raise ValueError(" | ".join(problems))


def prepare_model(config: dict[str, Any]) -> tuple[Sam, list[WeightSource]]:
    """Build the network and load the weights it starts from."""
    numbers = {key: value for key, value in config["model"].items() if key != "_target_"}
    model = build_sam(**numbers)
    sources = []
    if config["weights"] is not None:
        sources.append(load_whole(model, read_weights(config["weights"])))
    if config["heads"] is not None:
        heads = read_weights(config["heads"])
        sources.append(load_heads(model, heads))
        if config["match_embedding_scale"]:
            load_embedding_norm(model, heads)
    for source in sources:
        log.info("weights: %s", source.describe())
    if not any("image_encoder" in source.parts for source in sources):
        log.info("weights: the image encoder starts at random")
    return model, sources


def prepare_module(config: dict[str, Any], data: ShardDataModule) -> SamModule:
    """Build the LightningModule around model, loss, optimizer and scheduler."""
    model, sources = prepare_model(config)
    description = {
        "format": 1,
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


def load_best(trainer: lightning.Trainer, module: SamModule) -> str:
    """Load the best checkpoint into the module and return its path."""
    path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    if not path:
        raise ValueError(
            f"no checkpoint was kept: {module.monitor} was never logged; train for at least one validation"
        )
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    module.train().eval()  # drops TinyViT's cached attention biases
    return path


def run(config: dict[str, Any]) -> int:
    """Carry out one run and return its exit code."""
    check_inputs(config)
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    lightning.seed_everything(config["seed"], workers=True, verbose=False)
    data = prepare_data(config)
    run_dir = Path(config["run_dir"])
    resume = open_run(run_dir, config)
    summary_path = run_dir / SUMMARY_FILE
    summary: dict[str, Any] = json.loads(summary_path.read_text()) if summary_path.is_file() else {}
    module = prepare_module(config, data)
    trainer: lightning.Trainer = build(
        config["trainer"],
        default_root_dir=str(run_dir),
        callbacks=[build(entry) for entry in config["callbacks"].values()],
        logger=[build(entry) for entry in config["logger"].values()] or False,
    )
    if config["compare"] and "untrained" not in summary:
        summary["untrained"] = validate(trainer, module, data)
        summary["fill the box"] = filled_boxes(data)
        write_json(summary_path, summary)
    if resume is not None:
        log.info("going on from %s", resume)
    trainer.fit(module, datamodule=data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    best = load_best(trainer, module)
    summary |= {"trained": validate(trainer, module, data), "best_checkpoint": best}
    write_json(summary_path, summary)
    print(f"\nbest checkpoint by {config['monitor']}: {best}")
    titles = ("untrained", "fill the box", "trained") if config["compare"] else ("trained",)
    print("validation, slice-wise at 256 px (%)")
    print(comparison_table({title: summary[title] for title in titles}))
    if config["compare"] and config["require_improvement"]:
        before, after = (summary[title][MACRO]["dsc"] for title in ("untrained", "trained"))
        if not after > before:
            print(
                f"error: training did not improve DSC ({100 * before:.2f} -> {100 * after:.2f})",
                file=sys.stderr,
            )
            return 1
    return 0


@entry_point("train")
def main(config: dict[str, Any]) -> int:
    """Run the composed config."""
    return run(config)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
