"""Reading run directories: what each run is, how far it came, and what it found out."""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from graysam.system.terminal import one_line

MACRO = "macro"
START, FILLED, TRAINED = "start", "fill the box", "trained"
CONFIG, SUMMARY, BENCHMARK, RUN = "config.json", "summary.json", "benchmark.json", "run.json"
EPOCH_MEANS = ("train/loss_epoch", "train/embedding_error_epoch")  # columns of metrics.csv, written when an epoch ends
TIMES = ("encoder_ms", "decoder_ms", "image_ms")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


class Score(NamedTuple):
    """DSC and NSD in [0,1], means over n objects."""

    dsc: float
    nsd: float
    n: int


Scores = Mapping[str, Score]  # modality or MACRO -> score


class ObjectScore(NamedTuple):
    """DSC and NSD in [0,1] of one object on a validation slice."""

    modality: str
    dsc: float
    nsd: float


Objects = Mapping[tuple[str, int], ObjectScore]  # slice's key, number of the object's box


@dataclass(frozen=True)
class Kind:
    """One kind of numbers (a quantization, or none) that a run's weights were benchmarked in.

    times_ms are medians. objects: the validation objects that were scored; empty where an older benchmark did not
    store them. Where the kind could not run, `reason` says why and the rest is empty.
    """

    scores: Scores = field(default_factory=dict)
    times_ms: Mapping[str, float] = field(default_factory=dict)
    size_mb: float = math.nan
    reason: str = ""
    objects: Objects = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    scores: by title (START, FILLED, TRAINED), of the validation slices at 256 px. objects: all that the trained model
    was scored on, empty where an older run did not store them. epochs: those that ended; images: seen in them, with
    repetitions, an epoch's last batch counted as a whole one. None where no CSV logger wrote them down.
    images_per_step: over all ranks; None, as images then are, where neither config nor run.json tells. problem: "" for
    a finished run, else what it lacks, in one line.
    """

    path: Path
    name: str
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    objects: Objects = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    epochs: int | None = None
    images: int | None = None
    images_per_step: int | None = None
    problem: str = ""

    @property
    def state(self) -> str:
        """Return `finished`, `unfinished` or `damaged`."""
        return self.problem.partition(":")[0] or "finished"


def images_per_step(config: Mapping[str, Any], ranks: object = None) -> int | None:
    """Return how many images one step of the optimizer sees, over all ranks; None where nothing tells.

    ranks: what run.json says; without it the config's devices must be a number, which `auto` and -1 are not.
    """
    try:
        trainer, batch = config["trainer"], int(config["data"]["batch_size"])
        counts: list[Any] = [ranks] if ranks is not None else [trainer["devices"], trainer["num_nodes"]]
        counts += [batch, trainer["accumulate_grad_batches"]]
    except (KeyError, TypeError, ValueError):
        return None
    if not all(isinstance(count, int) and count > 0 for count in counts):
        return None
    return math.prod(counts)


def natural_key(text: str) -> list[Any]:
    """Return a key that sorts numbers within names by their value: seed2 before seed10, 5e-05 before 0.0001."""
    parts = _NUMBER.split(text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def read_run(path: Path) -> Run:
    """Read a run directory; what is missing or damaged becomes the run's `problem`, never an exception."""
    try:
        config = _json(path / CONFIG)
        name, seed = config.get("name"), config.get("seed")
        if not isinstance(name, str) or not isinstance(seed, int):
            raise ValueError(f"{CONFIG} is no run's: name {name!r}, seed {seed!r}")
    except (OSError, ValueError) as error:
        return Run(path, path.name, problem=f"damaged: {one_line(error)}")
    try:
        a_step = images_per_step(config, _json_or(path / RUN, {}).get("ranks"))
        epochs, steps = _progress(path)
        summary = _json_or(path / SUMMARY, {})
        scores = {title: _scores(summary[title], SUMMARY) for title in (START, FILLED, TRAINED) if title in summary}
        objects = _objects(summary, SUMMARY)
        benchmark = _json_or(path / BENCHMARK, {"kinds": {}})
        kinds = {name: _kind(name, part) for name, part in _part(benchmark, "kinds", BENCHMARK).items()}
    except (OSError, ValueError) as error:
        return Run(path, name, seed, config, problem=f"damaged: {one_line(error)}")
    problem = ""
    if TRAINED not in scores:
        of = f"of {_part(config, 'trainer', CONFIG).get('max_epochs')} epochs"
        problem = f"unfinished: none {of} recorded" if epochs is None else f"unfinished: {epochs} {of}"
    images = None if steps is None or a_step is None else steps * a_step
    return Run(path, name, seed, config, scores, objects, kinds, epochs, images, a_step, problem)


def _json_or(path: Path, absent: dict[str, Any]) -> dict[str, Any]:
    return _json(path) if path.is_file() else absent


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path.name} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}; required: an object")
    return content


def _part(content: Any, key: str, file: str) -> dict[str, Any]:
    part = content.get(key) if isinstance(content, dict) else None
    if not isinstance(part, dict):
        raise ValueError(f"{file} has no object {key!r} where it belongs")
    return part


def _number(content: Any, key: str, file: str) -> float:
    number = content.get(key) if isinstance(content, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{file}: {key} is {number!r}; required: a finite number")
    return float(number)


def _scores(content: Any, file: str) -> Scores:
    _part(content, MACRO, file)
    return {
        name: Score(_number(row, "dsc", file), _number(row, "nsd", file), int(_number(row, "n", file)))
        for name, row in content.items()
    }


def _kind(name: str, content: Any) -> Kind:
    if not isinstance(content, dict) or not content.get("available"):
        return Kind(reason=str(content.get("reason", "no reason given")) if isinstance(content, dict) else "damaged")
    times = {key: _number(_part(content, key, BENCHMARK), "median", BENCHMARK) for key in TIMES}
    scores = _scores(content.get("scores"), f"{BENCHMARK}: {name}")
    objects = _objects(content, f"{BENCHMARK}: {name}")
    return Kind(scores, times, _number(content, "size_mb", BENCHMARK), objects=objects)


def _objects(content: Mapping[str, Any], file: str) -> Objects:
    try:
        found = {
            (str(key), int(prompt)): ObjectScore(str(modality), float(dsc), float(nsd))
            for key, prompt, modality, dsc, nsd in content.get("objects", [])
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: its objects are no rows of five ({error})") from None
    if not all(math.isfinite(one.dsc) and math.isfinite(one.nsd) for one in found.values()):
        raise ValueError(f"{file}: an object's score is not finite")
    return found


def _progress(path: Path) -> tuple[int | None, int | None]:
    """Count epochs that ended and the steps in them, over all starts of a run; None where nothing tells."""
    files = sorted((path / "metrics").glob("version_*/metrics.csv"))
    epochs, steps = 0, 0
    try:
        for file in files:
            with file.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    if any(map(row.get, EPOCH_MEANS)) and row["epoch"]:
                        epochs = max(epochs, int(float(row["epoch"])) + 1)
                        steps = max(steps, int(float(row["step"])) + 1)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None, None  # cut short by a full disk, say; the scores do not come from it
    return (epochs, steps) if files else (None, None)
