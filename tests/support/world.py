"""Worlds of a few small cases, which the soak (`tests/scripts/soak.py`) calls commands on."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.commands import write_case
from tests.support.tiny import overrides

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@dataclass
class World:
    """A folder of a few cases, a command, and what may be expected of it.

    Attributes:
        folder: of this call alone.
        base: what all calls share and none may change: models and shards.
        rng: the call's own.
        command: predict, evaluate, pack or train; python and shards call classes in this process.
        cases: name -> arrays imgs, boxes, gts, segs, spacing.
        bad: cases that need not be done, but must be named.
        whole: whether the command may refuse everything.
        options: further arguments.
        environment: variables of the command.
        places: input and output by their role, beneath `folder`.
        model: what predicts.
        may_change: files that the command may replace.
        said: cases, and what must be in the output where they are done.
        afterwards: steps once the cases are written.
        streams: how a process's streams are closed or narrowed.
        started: time in seconds; results are younger.
    """

    folder: Path
    base: Path
    rng: np.random.Generator
    command: str
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    whole: bool = False
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    model: Path | None = None
    may_change: set[Path] = field(default_factory=set)
    said: list[tuple[str, str]] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    streams: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        roles = {"imgs": "imgs", "gts": "gts", "segs": "segs", "raw": "raw", "table": "metrics.csv"}
        roles |= {"out": "out", "shards": "shards", "run": "run"}
        self.places = {role: self.folder / name for role, name in roles.items()}
        self.model = self.base / "tiny"

    def one(self) -> tuple[str, dict[str, Any]]:
        """Return a random case of those that are still good, or of all."""
        names = sorted(set(self.cases) - self.bad) or sorted(self.cases)
        name = names[self.rng.integers(len(names))]
        return name, self.cases[name]

    def spoil(self) -> tuple[str, dict[str, Any]]:
        """Return a random case that need not be done any more."""
        name, case = self.one()
        self.bad.add(name)
        return name, case

    def pick(self, *choices: Any) -> Any:
        """Return a random one."""
        return choices[self.rng.integers(len(choices))]

    def input(self) -> Path:
        """Return the folder whose entries must be accounted for."""
        return self.places[{"evaluate": "gts", "pack": "raw"}.get(self.command, "imgs")]

    def output(self) -> Path:
        """Return where the command writes."""
        return self.places[{"evaluate": "table", "pack": "shards", "train": "run"}.get(self.command, "out")]

    def write(self) -> None:
        """Write what the command reads."""
        parts = {
            "imgs": ("imgs", "boxes", "spacing"),
            "gts": ("gts", "spacing"),
            "segs": ("segs",),
            "raw": ("imgs", "gts", "spacing"),
        }
        roles = {"predict": ("imgs",), "python": ("imgs",), "evaluate": ("gts", "segs", "imgs"), "pack": ("raw",)}
        for role in roles.get(self.command, ()):
            self.places[role].mkdir(parents=True, exist_ok=True)
            for name, case in self.cases.items():
                write_case(self.places[role], name, **{key: case[key] for key in parts[role] if key in case})
        for step in self.afterwards:
            step()

    def argv(self) -> list[str]:
        """Return the command's arguments."""
        at = {role: str(path) for role, path in self.places.items()}
        if self.command in ("predict", "python"):
            return ["-i", at["imgs"], "-o", at["out"], "--model", str(self.model), *self.options]
        if self.command == "evaluate":
            return ["-s", at["segs"], "-g", at["gts"], "-o", at["table"], "--workers", "1", *self.options]
        if self.command == "shards":
            return [*self.options, *(str(path) for path in sorted(self.folder.glob("packed_*")))]
        if self.command == "pack":
            return [f"input_dir='{at['raw']}'", f"output_dir='{at['shards']}'", "workers=1", *self.options]
        quiet = ["logger=none", "callbacks.progress=null"]
        return [*overrides(self.base / "shards_a", self.places["run"]), *quiet, *self.options]


def good_case(rng: np.random.Generator, volume: bool) -> dict[str, Any]:
    """Return the arrays of a case with one to three bright objects, of 32 to 96 pixels and up to 5 slices."""
    height, width = rng.integers(32, 97, 2).tolist()
    depth = int(rng.integers(4, 6)) if volume else 1
    image = rng.integers(0, 60, (depth, height, width), dtype=np.uint8)
    gts = np.zeros(image.shape, np.uint8)
    boxes = []
    for label in range(1, int(rng.integers(2, 4))):
        y, x = int(rng.integers(1, height // 2)), int(rng.integers(1, width // 2))
        here = np.s_[:, y : y + height // 3, x : x + width // 3]
        gts[here], image[here] = label, rng.integers(160, 250)
        boxes.append([x, y, 0, x + width // 3, y + height // 3, depth - 1])
    for label in set(range(1, len(boxes) + 1)) - set(np.unique(gts).tolist()):
        gts[:, 0, label] = label  # of an object that lies beneath another
    case: dict[str, Any] = {"imgs": image, "gts": gts, "boxes": np.array(boxes)}
    if volume:
        case["spacing"] = np.array([3.0, 1.0, 1.0])
    else:
        case = {"imgs": image[0], "gts": gts[0], "boxes": case["boxes"][:, [0, 1, 3, 4]]}
        if rng.random() < 0.5:
            case["imgs"] = np.dstack([case["imgs"]] * 3)
    case["segs"] = np.roll(case["gts"], 1, axis=-1).astype(np.uint16)
    return case
