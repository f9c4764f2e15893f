"""Ways into graysam: each takes many troubled cases at once and says what became of every one.

A door is a function of the rows whose trouble can occur there and of a `Place`; it returns, by the name of the case,
what was `Seen`. Wherever a door takes several cases, a good one is among them and must be done.
"""

import contextlib
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import graysam.evaluate
import graysam.pack
import graysam.predict
import graysam.train
from graysam.data.shards import ShardReader
from graysam.inference.predictor import Predictor
from graysam.io.image import Image, read_image, write_mask
from graysam.system.terminal import printable
from tests.support.commands import write_case
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import build_data

ROOT = Path(__file__).parents[2]

# Enlarged to the network's grid, so that a box that was clipped at the last pixel loses that pixel in the mask.
IMAGE = np.full((16, 16), 20, np.uint8)
IMAGE[4:, 4:] = 200
GTS = (IMAGE > 100).astype(np.uint8)
BOX = [2, 2, 12, 12]
FOREIGN = 7  # label of masks that are not graysam's


class Row(NamedTuple):
    """A rule, the name of its case, the decision, and a regular expression for what must be said.

    arrays: of the case, instead of the good one's. absent: door -> why the trouble cannot occur there. at: arrays at
    one door alone. weights: those of the model hold NaN. occupied: what would be written is there already, and not
    graysam's.
    """

    rule: str
    name: str
    decision: str
    words: str = "^$"
    arrays: Mapping[str, Any] = {}
    absent: Mapping[str, str] = {}
    at: Mapping[str, Mapping[str, Any]] = {}
    weights: bool = False
    occupied: bool = False

    def write(self, folder: Path, door: str, *keys: str) -> Path:
        """Write those of the case's arrays into a folder."""
        case = self.case(door)
        return write_case(folder, self.name, **{key: case[key] for key in keys if key in case})

    def case(self, door: str) -> dict[str, Any]:
        """Return all arrays of the case at a door."""
        return {"imgs": IMAGE, "boxes": np.array([BOX]), "gts": GTS, **self.arrays, **self.at.get(door, {})}


GOOD = Row("", "2DBox_US_good", "accepted")


class Seen(NamedTuple):
    """What a door did with a case: whether it was done, what was said of it, whether its box was used unclipped."""

    done: bool
    text: str
    unclipped: bool = False


@dataclass(frozen=True)
class Place:
    """A test's folder, two models and one with NaN in two formats, and how a command gets its arguments from Hydra."""

    path: Path
    model: Path
    nan_weights: Path
    nan_exported: Path
    set_argv: Callable[[list[str]], None]
    drawn: dict[str, Any] = field(default_factory=dict)  # boxes by caption

    def folder(self, *names: object) -> Path:
        """Make a folder."""
        path = self.path.joinpath(*map(str, names))
        path.mkdir(parents=True)
        return path


def runs(rows: Sequence[Row]) -> Iterator[tuple[int, list[Row]]]:
    """Yield, numbered, the rows that one call can hold: those with the good model and free outputs; the others each."""
    special = [[row] for row in rows if row.weights or row.occupied]
    yield from enumerate([[row for row in rows if not row.weights and not row.occupied], *special])


def called(main: Callable[..., int], *arguments: Any) -> str:
    """Run a command in this process and return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        main(*arguments)
    return printed.getvalue()


def about(row: Row, text: str, *counts: str) -> str:
    """Return the lines that name a case, or begin like `counts`; of a call for one row alone, the errors as well."""
    names = tuple(f"{printable(row.name)}{end}" for end in (".", ":"))
    begins = (*counts, "error: ") if row.weights or row.occupied else counts
    lines = [printable(line) for line in text.splitlines()]
    return "\n".join(line for line in lines if line.startswith(begins) or any(name in line for name in names))


def predicted(rows: Sequence[Row], folder: Path, door: str, run: Callable[[Path, Path], str]) -> dict[str, Seen]:
    """Write the rows' cases, run a command from one folder to another, and return what became of each."""
    inputs, outputs = folder / "inputs", folder / "outputs"
    for row in rows:
        row.write(inputs, door, "imgs", "boxes", "spacing")
        if row.occupied:
            write_case(outputs, row.name, segs=GTS * FOREIGN)
    text = run(inputs, outputs)
    result = {}
    for row in rows:
        path, segs = outputs / f"{row.name}.npz", np.zeros((1, 1))
        if path.exists():
            with np.load(path) as file:
                segs = file["segs"]
        done = path.exists() and segs.max() != FOREIGN
        result[row.name] = Seen(done, about(row, text), done and bool(segs[..., -1, -1].any()))
    return result


def predict_one(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Segment folders of one case each."""
    result = {}
    for number, row in enumerate(rows):
        run = _predicting(place, row.weights)
        result |= predicted([row], place.folder("one", number), "predict, one case", run)
    return result


def predict_folder(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Segment a folder of many cases, of which the good one is done."""
    result = {}
    for number, some in runs(rows):
        run = _predicting(place, some[0].weights)
        result |= predicted([*some, GOOD], place.folder("several", number), "predict, folder", run)
        assert result[GOOD.name] == Seen(not some[0].weights, "") or some[0].occupied
    return result


def _predicting(place: Place, weights: bool) -> Callable[[Path, Path], str]:
    model = str(place.nan_weights if weights else place.model)
    return lambda inputs, outputs: called(
        graysam.predict.main, ["-i", str(inputs), "-o", str(outputs), "--model", model]
    )


def run_container(folder: Path, model: Path) -> str:
    """Run the container's script in a folder with `inputs`, and return what it wrote to the standard error."""
    shutil.copy(ROOT / "container" / "predict.sh", folder)
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GRAYSAM_MODEL": str(model)}
    command = ["sh", str(folder / "predict.sh")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stderr


def container(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Run the container's script on what is mounted."""
    result = {}
    for number, some in runs(rows):
        model = place.nan_exported if some[0].weights else place.model
        folder = place.folder("container", number)

        def run(inputs: Path, _: Path, model: Path = model) -> str:
            return run_container(inputs.parent, model)

        result |= predicted(some, folder, "container", run)
    return result


def python(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Read an image, segment it and write the mask. Rows about images and boxes are decided alike for an array."""
    folder = place.folder("python")
    result = {}
    for row in rows:
        case = row.case("Python")
        target = folder / f"{row.name}.npz"
        path = row.write(folder / "inputs", "Python", *case)
        if row.occupied:
            target.write_bytes(b"notes")

        def segment(given: Callable[[], Any], row: Row = row, target: Path = target) -> Seen:
            case, labels = row.case("Python"), np.zeros((1, 1))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                text = ""
                try:
                    image = given()
                    predictor = Predictor(place.nan_weights if row.weights else place.model)
                    labels = predictor.predict(image, case["boxes"])
                    own = isinstance(image, Image) and "gts" in row.arrays and len(case["boxes"]) == 1
                    write_mask(target, case["gts"] if own else labels, image if isinstance(image, Image) else None)
                except ValueError as error:
                    text = str(error)
            said = [text, *(str(warning.message) for warning in caught)]
            return Seen(not text, "\n".join(filter(None, said)), bool(labels[..., -1, -1].any()))

        result[row.name] = segment(lambda path=path: read_image(path))
        from_array = segment(lambda pixels=case["imgs"]: pixels)
        assert "gts" in row.arrays or decision(row, from_array) == decision(row, result[row.name]), row.rule
    return result


def pack(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Pack a folder of cases; one is done where its samples are in the index."""
    result = {}
    for number, some in runs(rows):
        folder = place.folder("pack", number)
        for row in (*some, GOOD):
            row.write(folder / "in", "pack", "imgs", "gts", "spacing")
            if row.occupied:
                write_case(folder / "out", "notes", segs=GTS)
        place.set_argv(["pack", f"input_dir={folder}/in", f"output_dir={folder}/out", "workers=1"])
        text = called(graysam.pack.main)
        names = packed_names(folder / "out") if (folder / "out" / "manifest.json").exists() else set()
        assert GOOD.name in names or some[0].occupied
        for row in some:
            counts = ("left out, labels vanished",) if row.case("pack")["gts"].max() == 2 else ()
            text_of_row = about(row, text.replace(".npz: ", ": "), *counts)
            result[row.name] = Seen(row.name in names, text_of_row)
    return result


def packed_names(shards: Path, keys: Sequence[str] | None = None) -> set[str]:
    """Return the names of the cases that have a sample in shards, of those keys where given."""
    reader = ShardReader(shards)
    rows = [row for row in range(len(reader)) if keys is None or reader.keys[row] in keys]
    return {reader.read(row).meta["case_id"] for row in rows}


def train(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Load what `pack` packed; a case is done where its samples come from the data module. Trouble ends the command."""
    shards, result = place.path / "pack" / "0" / "out", {}
    data = build_data(compose_plain("train", overrides(shards, place.path / "run", "data.samples_per_group=64")))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    loaders = data.train_dataloader(), data.val_dataloader()
    names = packed_names(shards, [key for loader in loaders for batch in loader for key in batch.keys])
    for row in rows:
        if not row.weights and not row.occupied:
            result[row.name] = Seen(row.name in names, "")
            continue
        run_dir = place.path / f"run-{row.name}"
        if row.occupied:
            write_case(run_dir, "notes", segs=GTS)
        more = [f"weights={place.nan_weights}"] if row.weights else []
        place.set_argv(["train", *overrides(shards, run_dir, *more)])
        text = called(graysam.train.main)
        result[row.name] = Seen((run_dir / "config.json").exists(), about(row, text))
    return result


def evaluate(rows: Sequence[Row], place: Place) -> dict[str, Seen]:
    """Score masks and draw them on images with boxes; a case is done where both came out."""
    result = {}
    for number, some in runs(rows):
        folder = place.folder("evaluate", number)
        for row in (*some, GOOD):
            row.write(folder / "imgs", "evaluate", "imgs", "boxes", "spacing")
            row.write(folder / "gts", "evaluate", "gts", "spacing")
            case = row.case("evaluate")
            write_case(folder / "segs", row.name, segs=case.get("segs", case["gts"]))
            if row.occupied:
                (folder / "metrics.csv").write_text("notes")
        options = {"-s": "segs", "-g": "gts", "--images": "imgs", "-o": "metrics.csv", "--overlay": "drawn"}
        words = [word for option, name in options.items() for word in (option, str(folder / name))]
        text = called(graysam.evaluate.main, [*words, "--workers", "1"])
        with (folder / "metrics.csv").open(newline="") as file:
            scored = {line[0] for line in csv.reader(file)}
        assert GOOD.name in scored or some[0].occupied
        for row in some:
            done = printable(row.name) in scored and (folder / "drawn" / f"{row.name}.png").exists()
            given = row.case("evaluate")["boxes"]
            unclipped = np.array_equal(place.drawn.get(row.name, ()), given) and len(IMAGE) in given
            result[row.name] = Seen(done, about(row, text), done and bool(unclipped))
    return result


DOORS: dict[str, Callable[[Sequence[Row], Place], dict[str, Seen]]] = {
    "predict, one case": predict_one,
    "predict, folder": predict_folder,
    "Python": python,
    "pack": pack,
    "train": train,  # after `pack`, whose shards it takes
    "evaluate": evaluate,
    "container": container,
}


def decision(row: Row, seen: Seen) -> str:
    """Return what was decided; what was seen, where the row's words were not said."""
    if not re.search(row.words, seen.text, re.DOTALL):
        return str(seen)
    if not seen.done:
        return "refused"
    if seen.text:
        return "noted"
    return "unclipped" if seen.unclipped else "accepted"
