"""Rules by doors: a trouble gets the same decision at every way into graysam. `pytest -s` prints the matrix."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tabulate import tabulate

from graysam.imaging import drawing
from tests.support.commands import save_tiny_model
from tests.support.doors import BOX, DOORS, GTS, IMAGE, Place, Row, decision
from tests.support.exported_models import write_tiny_exported

REFUSED, NOTED, UNCLIPPED, ACCEPTED = "refused", "noted", "unclipped", "accepted"

LARGE, LARGE_GTS = np.zeros((600, 600), np.uint8), np.zeros((600, 600), np.uint8)
LARGE[100:500, 100:500], LARGE_GTS[100:500, 100:500] = 200, 1
LARGE_GTS[2, 2] = 2  # no centre of a pixel where 600 become 256

NO_MASKS = dict.fromkeys(("predict, one case", "predict, folder", "container"), "predict reads no masks")
NO_BOXES = {"pack": "pack reads no boxes; they are made of the masks"}
SHARDS = {"train": "shards hold what pack accepted, and one that was changed is refused by its SHA-256"}
NO_MODEL = dict.fromkeys(("pack", "evaluate"), "no model takes part")
TOLD = {"Python": "write_mask is told the very file, and the caller decides"}
VANISHED = {"train": "a label that vanishes in packing is in no shard; prompts are drawn from the others"}


def box_row(rule: str, name: str, decision: str, words: str, box: Sequence[float]) -> Row:
    return Row(f"box {rule}", f"2DBox_US_{name}", decision, words, {"boxes": np.array([box])}, {**NO_BOXES, **SHARDS})


def masks_row(rule: str, name: str, words: str, gts: Any) -> Row:
    return Row(f"masks {rule}", f"2DBox_US_{name}", REFUSED, words, {"gts": gts}, {**NO_MASKS, **SHARDS})


ROWS = (
    box_row("wholly outside", "outside", REFUSED, "box 1.*wholly outside", [20, 20, 30, 30]),
    box_row("that sticks out", "sticking", NOTED, "box 1 clipped to the image", [-3, 2, 40, 12]),
    box_row("one past the last pixel", "edge", UNCLIPPED, "^$", [4, 4, 16, 16]),
    box_row("inverted", "inverted", REFUSED, "box 1.*inverted", [12, 2, 2, 12]),
    box_row("not finite", "infinite", REFUSED, "box 1.*finite", [2, 2, np.nan, 12]),
    Row(
        rule="more than 65535 labels",
        name="2DBox_US_many",
        decision=REFUSED,
        words="6553[56].*65535",
        arrays={"boxes": np.tile(BOX, (65536, 1)), "gts": GTS * np.uint32(65536)},
        absent=SHARDS,
    ),
    masks_row("with negative labels", "negative", "labels from -1", -GTS.astype(np.int16)),
    masks_row("with fractional labels", "fractional", "float", GTS * 0.5),
    Row("int16 CT without a window", "2DBox_CT_16bit", NOTED, "int16.*window", {"imgs": IMAGE * np.int16(9)}, SHARDS),
    Row("NaN in the weights", "2DBox_US_weights", REFUSED, "NaN", absent=NO_MODEL, weights=True),
    masks_row("(H,W,3) of a picture", "threefold", r"\(16, 16, 3\)", np.dstack([GTS] * 3)),
    Row(
        rule="boxes (N,6) on a picture",
        name="US_sixfold",
        decision=REFUSED,
        words=r"\(16, 16, 3\) may be.*3DBox_",
        arrays={"imgs": np.dstack([IMAGE] * 3), "boxes": np.array([[2, 2, 0, 12, 12, 9]])},
        absent={**NO_BOXES, **SHARDS},
    ),
    Row(
        rule="volume of one slice, undeclared",
        name="US_slice",
        decision=REFUSED,
        words=r"\(1, 16, 16\) may be.*3DBox_",
        arrays={"imgs": IMAGE[None], "boxes": np.zeros(0), "gts": GTS[None]},
        absent=SHARDS,
    ),
    Row(
        rule="volume of one slice, declared",
        name="3DBox_US_slice",
        decision=ACCEPTED,
        arrays={
            "imgs": IMAGE[None],
            "boxes": np.array([[2, 2, 0, 12, 12, 0]]),
            "gts": GTS[None],
            "spacing": np.ones(3),
        },
    ),
    Row(
        rule="output of others is there",
        name="2DBox_US_foreign",
        decision=REFUSED,
        words="graysam has not written|something else than shards|no run of graysam",
        absent=TOLD,
        occupied=True,
    ),
    Row("file name that is not UTF-8", os.fsdecode(b"2DBox_US_caf\xe9"), ACCEPTED),
    Row(
        rule="prompt without a pixel",
        name="2DBox_US_point",
        decision=NOTED,
        words="labels 2 |labels vanished in resizing: 1|no label in gts",
        arrays={"imgs": LARGE, "boxes": np.array([[90, 90, 510, 510], [2, 2, 2, 2]]), "gts": LARGE_GTS},
        absent=VANISHED,
        at={"evaluate": {"gts": LARGE_GTS * 0}},
    ),
)


@pytest.mark.skipif(sys.platform != "linux", reason="the container's system, where a name may hold any bytes")
@pytest.mark.usefixtures("user_cache", "threads")
def test_every_door_decides_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_weights = save_tiny_model(tmp_path / "nan.ckpt")
    content = torch.load(nan_weights, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] = torch.nan
    torch.save(content, nan_weights)
    model, nan_model = (write_tiny_exported(tmp_path / f"tiny-{level}", level=level).path for level in (0.5, np.nan))
    place = Place(tmp_path, model, nan_weights, nan_model, lambda argv: monkeypatch.setattr(sys, "argv", argv))
    draw = drawing.draw_overlay

    def draw_and_keep(image: Any, segs: Any, boxes: Any, *more: Any, caption: str) -> Any:
        place.drawn[caption.partition("   ")[0]] = boxes
        return draw(image, segs, boxes, *more, caption=caption)

    monkeypatch.setattr(drawing, "draw_overlay", draw_and_keep)
    cells: dict[str, dict[str, str]] = {row.rule: {} for row in ROWS}
    for door, enter in DOORS.items():
        seen = enter([row for row in ROWS if door not in row.absent], place)
        for row in ROWS:
            cells[row.rule][door] = row.absent.get(door) or decision(row, seen[row.name])
    reasons = sorted({reason for row in ROWS for reason in row.absent.values()})
    marks = {reason: f"- ({number})" for number, reason in enumerate(reasons, start=1)}
    table = [[rule, *(marks.get(cell, cell) for cell in by_door.values())] for rule, by_door in cells.items()]
    print(f"\n{tabulate(table, ('rule', *DOORS), tablefmt='github')}")
    print("\n".join(f"{mark} cannot occur: {reason}" for reason, mark in marks.items()))
    assert cells == {row.rule: {door: row.absent.get(door, row.decision) for door in DOORS} for row in ROWS}
