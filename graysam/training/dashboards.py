"""Tables and pictures for whatever loggers a run has: W&B, TensorBoard, CSV.

A name means the same everywhere: the table `benchmark` is W&B's and TensorBoard's `tables/benchmark` and the file
`tables/benchmark.csv` of the run directory; pictures `worst/CT` are `images/worst/CT` and `images/worst/CT.png`.
"""

import csv
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from graysam.system.files import replacing
from graysam.training.loggers import RunWandbLogger

Cell = str | int | float | None
STEP = "step"


@rank_zero_only
def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
) -> None:
    """Give a table to every logger.

    W&B gets a Table, TensorBoard its text in Markdown. The CSV file begins with a column `step` and keeps the rows of
    other steps, so that a table that is logged many times is one file. Other loggers are passed over.

    Raises:
        ValueError: a row is not as long as the columns, or a column is named `step`.
    """
    if STEP in columns or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"table {name}: every row needs {len(columns)} cells, and no column may be named {STEP}")
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(f"tables/{name}", columns=list(columns), data=[list(row) for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(f"tables/{name}", _markdown(columns, rows), step)
        elif isinstance(logger, CSVLogger):
            _write_table(Path(logger.save_dir) / "tables" / f"{name}.csv", columns, rows, step)


@rank_zero_only
def log_images(
    loggers: Iterable[Logger],
    name: str,
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    step: int,
) -> None:
    """Give pictures, uint8 RGB (H,W,3) each with a caption, to every logger; none: nothing happens.

    W&B keeps the captions. TensorBoard and the files (which hold the last step's pictures) do not, and where there are
    several pictures, they add their numbers from 0 to the name.

    Raises:
        ValueError: not one caption a picture, or a picture of another shape or type.
    """
    if len(images) != len(captions) or any(x.dtype != np.uint8 or x.shape[2:] != (3,) for x in images):
        raise ValueError(f"pictures {name}: required are uint8 (H,W,3) arrays and one caption for each")
    names = [f"images/{name}"] if len(images) == 1 else [f"images/{name}_{i}" for i in range(len(images))]
    for logger in loggers if len(images) else ():
        if isinstance(logger, WandbLogger):
            logger.log_image(f"images/{name}", list(images), step=step, caption=list(captions))
        elif isinstance(logger, TensorBoardLogger):
            for tag, image in zip(names, images, strict=True):
                logger.experiment.add_image(tag, image, step, dataformats="HWC")
        elif isinstance(logger, CSVLogger):
            for tag, image in zip(names, images, strict=True):
                _write_png(Path(logger.save_dir) / f"{tag}.png", image)


def finish_loggers(loggers: Iterable[Logger], *, failed: bool) -> None:
    """Store what every logger still holds and end W&B runs, as failed (exit code 1) or finished; call it once.

    A logger that fails does not keep the others from ending; its error is raised when all have ended.
    """
    with ExitStack() as all_of_them:
        for logger in loggers:
            if isinstance(logger, RunWandbLogger):
                all_of_them.callback(logger.finish, failed=failed)
            all_of_them.callback(logger.finalize, "failed" if failed else "success")


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), line("---" for _ in columns), *(line(map(_cell, row)) for row in rows)])


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
    header = [STEP, *columns]
    kept: list[list[str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            stored = list(csv.reader(file))
        if stored and stored[0] == header:
            kept = [row for row in stored[1:] if row[0] != str(step)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept, *([step, *row] for row in rows)])


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 6))[1]
        temporary.write_bytes(encoded.tobytes())
