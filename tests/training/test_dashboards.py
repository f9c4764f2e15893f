"""Tables and pictures as files and TensorBoard events; which objects a validation shows."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from graysam.data.shards import ShardReader
from graysam.imaging.drawing import BOX, PANEL_SIDE, PREDICTION, TRUTH
from graysam.training.loggers import log_images, log_table
from graysam.training.scores import ObjectScore
from graysam.training.validation_report import SeenObject, ValidationReport, caption, draw_object, extremes
from tests.support.config import compose_plain

RNG = np.random.default_rng(0)


def csv_logger(run_dir: Path) -> CSVLogger:
    return CSVLogger(run_dir, name="metrics", flush_logs_every_n_steps=1)


def test_a_table_is_one_file_with_a_step_column(tmp_path: Path) -> None:
    loggers, columns = [csv_logger(tmp_path)], ["modality", "n", "DSC"]
    path = tmp_path / "tables" / "validation.csv"

    def rows_after(rows: list[list[object]], step: int) -> list[list[str]]:
        log_table(loggers, "validation", columns, rows, step=step)  # type: ignore[arg-type]
        with path.open(newline="") as file:
            return list(csv.reader(file))

    first = [["step", *columns], ["1", "CT", "2", "0.25"], ["1", "a,b", "1", ""]]
    assert rows_after([["CT", 2, 0.25], ["a,b", 1, None]], 1) == first
    assert rows_after([["CT", 2, 0.5]], 3) == [*first, ["3", "CT", "2", "0.5"]]
    assert rows_after([["CT", 2, 0.75]], 3) == [*first, ["3", "CT", "2", "0.75"]]  # a repeated step
    assert [file.name for file in path.parent.iterdir()] == ["validation.csv"]


def test_pictures_become_files_numbered_where_there_are_several(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8) for _ in range(2)]
    for name, count in (("worst/CT", 2), ("best/CT", 1), ("none", 0)):
        log_images([csv_logger(tmp_path)], name, pictures[:count], ["a", "b"][:count], step=1)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert found == ["images/best/CT.png", "images/worst/CT_0.png", "images/worst/CT_1.png"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / found[2]))[..., ::-1], pictures[1])


@pytest.mark.parametrize("name", ["csv", "wandb", "tensorboard", "all"])
def test_every_choice_of_loggers_but_none_includes_the_csv(name: str) -> None:
    """The report reads it, and a killed run needs every step in it."""
    chosen = compose_plain("train", [f"logger={name}"])["logger"]
    assert chosen["csv"]["flush_logs_every_n_steps"] == 1
    assert set(chosen) == {"csv", *({"wandb", "tensorboard"} if name == "all" else {name})}
    assert compose_plain("train", ["logger=none"])["logger"] == {}


def seen(dsc: float, key: str, prompt: int = 0) -> SeenObject:
    mask = np.zeros((4, 4), bool)
    return SeenObject(ObjectScore("US", "US", dsc, dsc, 0.1, key, prompt), np.zeros(4, np.float32), mask, mask)


def test_the_extremes_of_parts_extremes_are_the_extremes_of_all() -> None:
    """So neither batches nor ranks change what is shown, and only the shown objects need to be kept."""
    scores = np.repeat(RNG.random(20).round(1), 3)  # with ties
    objects = [seen(float(dsc), f"slice{i // 2}", i % 2) for i, dsc in enumerate(scores)]
    whole = extremes(objects, 3, 2)
    assert [x.score.dsc for x in whole] == [*sorted(scores)[:3], *sorted(scores)[-2:]]
    for parts in (4, 7):
        order = RNG.permutation(len(objects))
        kept = [extremes([objects[i] for i in order[part::parts]], 3, 2) for part in range(parts)]
        assert [x.score for x in extremes([x for part in kept for x in part], 3, 2)] == [x.score for x in whole]


@pytest.mark.parametrize(("worst", "best", "keys"), [(2, 2, ["b", "a", "c"]), (0, 1, ["c"]), (0, 0, [])])
def test_few_objects_are_all_kept_and_none_twice(worst: int, best: int, keys: list[str]) -> None:
    objects = [seen(0.5, "a"), seen(0.25, "b"), seen(0.75, "c")]
    assert [x.score.key for x in extremes(objects, worst, best)] == keys


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.validation_report\.worst is -1; required: at least 0"):
        ValidationReport(best=1, worst=-1, pictures_every_n_epochs=1)


@pytest.mark.parametrize(("validated", "drawn"), [(1, [5, 10, 15]), (3, [6, 12, 15]), (7, [7, 14, 21])])
def test_pictures_are_drawn_once_an_interval_whatever_epochs_are_validated(validated: int, drawn: list[int]) -> None:
    report = ValidationReport(best=1, worst=1, pictures_every_n_epochs=5)
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING), loggers=[1], sanity_checking=False, global_step=1
    )
    trainer.check_val_every_n_epoch = validated
    found = []
    for epoch in range(validated, 22, validated):
        trainer.current_epoch = epoch - 1
        report.on_validation_start(trainer)
        found += [epoch] if report.draws else []
    assert found[:3] == drawn


def test_a_picture_shows_the_slice_with_box_prediction_truth_and_caption(toy_shards: Path) -> None:
    reader = ShardReader(toy_shards)
    sample = reader.read(4)
    box, mask = np.asarray(sample.meta["boxes_xyxy"]["1"], np.float32), sample.mask(1).astype(bool)
    one = SeenObject(ObjectScore("US", "US", 0.875, 0.5, 0.1, sample.key, 1), box, mask, np.roll(mask, 4, axis=1))
    assert caption(one) == f"US  DSC 87.5  NSD 50.0  {sample.key} box 1"
    picture = draw_object(one, reader)
    assert picture.shape == (22 + PANEL_SIDE, PANEL_SIDE, 3)
    assert picture[:22].any(), "the caption"
    assert all((picture[22:] == colour).all(axis=-1).sum() > 20 for colour in (TRUTH, PREDICTION, BOX))
