"""Tables and pictures as files and TensorBoard events; which objects a validation shows; no advertisements."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from graysam.config.composing import compose_plain
from graysam.data.shards import ShardReader
from graysam.training.loggers import finish_loggers, log_images, log_table
from graysam.training.scores import ObjectScore
from graysam.training.validation_report import SeenObject, ValidationReport, caption, draw_object, extremes

RNG = np.random.default_rng(0)
YELLOW = (255, 255, 0)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def csv_logger(run_dir: Path) -> CSVLogger:
    return CSVLogger(run_dir, name="metrics", flush_logs_every_n_steps=1)


# ------------------------------------------------------------------------------------------------ tables and pictures


def test_a_table_is_one_file_with_a_step_column(tmp_path: Path) -> None:
    loggers = [csv_logger(tmp_path)]
    columns = ["modality", "n", "DSC"]
    log_table(loggers, "validation", columns, [["CT", 2, 0.25], ["a,b", 1, None]], step=1)
    log_table(loggers, "validation", columns, [["CT", 2, 0.5]], step=3)
    path = tmp_path / "tables" / "validation.csv"
    header = ["step", *columns]
    assert rows_of(path) == [header, ["1", "CT", "2", "0.25"], ["1", "a,b", "1", ""], ["3", "CT", "2", "0.5"]]
    log_table(loggers, "validation", columns, [["CT", 2, 0.75]], step=3)  # a step that was taken once more
    assert rows_of(path)[-2:] == [["1", "a,b", "1", ""], ["3", "CT", "2", "0.75"]]
    log_table(loggers, "validation", ["other"], [["x"]], step=4)  # what was there cannot be joined with it
    assert rows_of(path) == [["step", "other"], ["4", "x"]]
    assert [file.name for file in path.parent.iterdir()] == ["validation.csv"]


@pytest.mark.parametrize(("columns", "rows"), [(["a", "b"], [["x"]]), (["step"], [[1]])])
def test_a_table_that_does_not_fit_its_columns_is_refused(
    tmp_path: Path, columns: list[str], rows: list[list[Any]]
) -> None:
    with pytest.raises(ValueError, match="table t: every row needs"):
        log_table([csv_logger(tmp_path)], "t", columns, rows, step=0)
    assert list(tmp_path.iterdir()) == []


def test_pictures_become_files_numbered_where_there_are_several(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8) for _ in range(2)]
    loggers = [csv_logger(tmp_path)]
    log_images(loggers, "worst/CT", pictures, ["a", "b"], step=1)
    log_images(loggers, "best/CT", pictures[:1], ["a"], step=1)
    log_images(loggers, "none", [], [], step=1)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert found == ["images/best/CT.png", "images/worst/CT_0.png", "images/worst/CT_1.png"]
    read = cv2.imread(str(tmp_path / "images/worst/CT_1.png"))
    assert read is not None
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), pictures[1])


@pytest.mark.parametrize(
    ("picture", "captions"),
    [
        (np.zeros((4, 4, 3), np.float32), ["a"]),
        (np.zeros((4, 4), np.uint8), ["a"]),
        (np.zeros((4, 4, 3), np.uint8), []),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, picture: np.ndarray, captions: list[str]) -> None:
    with pytest.raises(ValueError, match="pictures p: required are uint8"):
        log_images([csv_logger(tmp_path)], "p", [picture], captions, step=0)


def tensorboard_logger(run_dir: Path) -> TensorBoardLogger:
    return TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False)


def test_a_resumed_run_goes_on_in_the_same_tensorboard_folder(tmp_path: Path) -> None:
    for steps in ((0, 1, 2), (2, 3)):
        part = tensorboard_logger(tmp_path)
        for step in steps:
            part.log_metrics({"val/dsc": step / 10}, step=step)
        log_table([part], "t", ["ab", "x"], [["cd", 0.123456]], step=steps[-1])
        finish_loggers([part], failed=False)
    folder = tmp_path / "tensorboard"
    assert not [path for path in folder.iterdir() if path.is_dir()]
    found = EventAccumulator(str(folder))
    found.Reload()
    assert {event.step: round(event.value, 5) for event in found.Scalars("val/dsc")} == {0: 0, 1: 0.1, 2: 0.2, 3: 0.3}
    texts = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("tables/t/text_summary")]
    assert [text.replace(" ", "") for text in texts] == ["|ab|x|\n|------|--------|\n|cd|0.1235|"] * 2


class Failing(CSVLogger):
    """A logger whose disk is full."""

    def finalize(self, status: str) -> None:
        raise OSError("disk full")


def test_a_logger_that_cannot_end_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    ended = []

    class Noting(CSVLogger):
        def finalize(self, status: str) -> None:
            ended.append(status)

    loggers: list[Logger] = [Noting(tmp_path), Failing(tmp_path), Noting(tmp_path)]
    with pytest.raises(OSError, match="disk full"):
        finish_loggers(loggers, failed=True)
    assert ended == ["failed", "failed"]


@pytest.mark.parametrize("name", ["csv", "wandb", "tensorboard", "all"])
def test_every_choice_of_loggers_but_none_includes_the_csv(name: str) -> None:
    """The report and whoever goes on with a killed run read it, so it is written at every step."""
    chosen = compose_plain("train", [f"logger={name}"])["logger"]
    assert chosen["csv"]["flush_logs_every_n_steps"] == 1
    others = {"csv": set(), "wandb": {"wandb"}, "tensorboard": {"tensorboard"}, "all": {"wandb", "tensorboard"}}[name]
    assert set(chosen) == {"csv", *others}
    assert compose_plain("train", ["logger=none"])["logger"] == {}


# --------------------------------------------------------------------------------------- best and worst of a validation


def seen(dsc: float, key: str = "k", prompt: int = 0, box: Sequence[float] = (10, 20, 29, 39)) -> SeenObject:
    """Return an object whose mask fills its box and whose prediction is the mask, one pixel to the right."""
    mask = np.zeros((256, 256), bool)
    x_min, y_min, x_max, y_max = (int(v) for v in box)
    mask[y_min : y_max + 1, x_min : x_max + 1] = True
    score = ObjectScore("US", "US", dsc, dsc, 0.1, key, prompt)
    predicted = np.roll(mask, 1, axis=1)
    return SeenObject(score, np.asarray(box, np.float32), np.packbits(mask), np.packbits(predicted), 256)


def test_the_extremes_of_parts_extremes_are_the_extremes_of_all() -> None:
    """So neither batches nor ranks change what is shown, and only the shown objects need to be kept."""
    scores = np.repeat(RNG.random(20).round(1), 3)  # with equals
    objects = [seen(float(dsc), key=f"slice{i // 2}", prompt=i % 2) for i, dsc in enumerate(scores)]
    whole = extremes(objects, 3, 2)
    assert [x.score.dsc for x in whole] == [*sorted(scores)[:3], *sorted(scores)[-2:]]
    for parts in (4, 7):
        order = RNG.permutation(len(objects))
        kept = [extremes([objects[i] for i in order[part::parts]], 3, 2) for part in range(parts)]
        assert [x.score for x in extremes([x for part in kept for x in part], 3, 2)] == [x.score for x in whole]


def test_few_objects_are_all_kept_and_none_twice() -> None:
    objects = [seen(0.5, "a"), seen(0.25, "b"), seen(0.75, "c")]
    assert [x.score.key for x in extremes(objects, 2, 2)] == ["b", "a", "c"]
    assert [x.score.key for x in extremes(objects, 0, 1)] == ["c"]
    assert extremes(objects, 0, 0) == []


@pytest.mark.parametrize("numbers", [(-1, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_counts_out_of_range_are_refused(numbers: tuple[int, int, int]) -> None:
    best, worst, every = numbers
    with pytest.raises(ValueError, match=f"best {best}, worst {worst}, pictures_every_n_epochs {every}; required"):
        ValidationReport(best=best, worst=worst, pictures_every_n_epochs=every)


def test_a_picture_shows_the_slice_with_box_prediction_truth_and_caption(toy_shards: Path) -> None:
    reader = ShardReader(toy_shards)
    sample = reader.read(4)
    box = sample.meta["boxes_xyxy"]["1"]
    mask = sample.mask(1)
    one = SeenObject(
        ObjectScore("US", "US", 0.875, 0.5, 0.1, sample.key, 1),
        np.asarray(box, np.float32),
        np.packbits(mask),
        np.packbits(np.roll(mask, 4, axis=1)),
        256,
    )
    assert caption(one) == f"US  DSC 87.5  NSD 50.0  {sample.key} box 1"
    picture = draw_object(one, reader)
    height, width = picture.shape[0] - 22, (picture.shape[1] - 4) // 2
    assert (height, width) == (512, 512)
    left, right = picture[22:, :width], picture[22:, -width:]
    rows, columns = np.nonzero((left == YELLOW).all(axis=-1))
    assert (rows.max() - rows.min() + 1) / (columns.max() - columns.min() + 1) == pytest.approx(1, abs=0.05)
    white, black = ((right == value).all(axis=-1).sum() for value in (255, 0))
    assert white > 20 and black > 20  # the dashes of the truth
