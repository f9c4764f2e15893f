"""Schemas of result files, one dataclass a file, each with `from_json` and `to_json`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from graysam.metrics.aggregation import MACRO

QUANTIZATION = "quantization.json"
EARLIER_QUANTIZATION = "benchmark.json"  # the file's name in format 1, whose key for `methods` was `kinds`
FORMAT = 2  # of quantization.json
TIMES = ("encoder_ms", "decoder_ms", "image_ms")


class Score(NamedTuple):
    """DSC and NSD in [0, 1], means over n objects."""

    dsc: float
    nsd: float
    n: int


class ObjectScore(NamedTuple):
    """DSC and NSD in [0, 1] of one object on a validation slice."""

    modality: str
    dsc: float
    nsd: float


Scores = Mapping[str, Score]  # modality or MACRO -> score
Objects = Mapping[tuple[str, int], ObjectScore]  # (key of the slice, number of the object's box) -> score


@contextmanager
def parsing(file: str) -> Iterator[None]:
    """Raise ValueError that names the file for whatever missing or damaged content raises."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{file}: {error} is missing") from None
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raise ValueError for a missing or invalid file."""
    with parsing(path.name):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"invalid JSON ({error})") from None
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}; required: an object")
        return content


def parse_scores(content: Mapping[str, Any]) -> Scores:
    """Parse `{modality or macro: {"dsc", "nsd", "n"}}`; raise KeyError, TypeError or ValueError for damage."""
    rows = {MACRO: content[MACRO], **content}
    scores = {name: Score(float(row["dsc"]), float(row["nsd"]), int(row["n"])) for name, row in rows.items()}
    if not all(math.isfinite(value) for score in scores.values() for value in score):
        raise ValueError("a score is not finite")
    return {name: scores[name] for name in content}


def parse_objects(rows: Sequence[Any]) -> Objects:
    """Parse rows of key, box number, modality, DSC and NSD; raise TypeError or ValueError for damage."""
    objects = {
        (str(key), int(box)): ObjectScore(str(modality), float(dsc), float(nsd))
        for key, box, modality, dsc, nsd in rows
    }
    if not all(math.isfinite(one.dsc) and math.isfinite(one.nsd) for one in objects.values()):
        raise ValueError("the score of an object is not finite")
    return objects


@dataclass(frozen=True)
class MethodResult:
    """Accuracy, times and size of a model's weights under one quantization method.

    Attributes:
        scores: modality or `macro` -> score.
        objects: scores of the validation objects; empty where an earlier version did not store them.
        times_ms: each of TIMES -> `median`, `min`, `max` and `n` of its measurements.
        size_mb: size on disk in 10^6 bytes.
        quantized: `layers`, `parameters` and `macs` -> `image_encoder` and `heads` -> (quantized, all).
        reason: why the method could not run; "" where it ran. The other attributes are empty then.
    """

    scores: Scores = field(default_factory=dict)
    objects: Objects = field(default_factory=dict)
    times_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    size_mb: float = math.nan
    quantized: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "MethodResult":
        """Parse one entry of `methods`; raise ValueError for damage."""
        with parsing("quantization method"):
            if not content["available"]:
                return cls(reason=str(content["reason"]))
            objects = parse_objects(content.get("objects", []))
            times = {key: {name: float(ms) for name, ms in content[key].items()} for key in TIMES}
            size = float(content["size_mb"])
            return cls(parse_scores(content["scores"]), objects, times, size, content.get("quantized", {}))

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads."""
        if self.reason:
            return {"available": False, "reason": self.reason}
        return {
            "available": True,
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "objects": [[*key, *score] for key, score in self.objects.items()],
            **self.times_ms,
            "size_mb": self.size_mb,
            "quantized": self.quantized,
        }


@dataclass(frozen=True)
class QuantizationReport:
    """A run's quantization.json: its best checkpoint under several quantization methods.

    Attributes:
        methods: name of a quantization method -> its result.
        checkpoint: file name of the checkpoint; checkpoint_sha256: its hash.
        settings: what was compared and how; `settings["methods"]` keeps the order that was asked for.
        threads: of the CPU during timing.
        images: number of scored images; objects: number of scored objects.
        boxes_of_timed_images: number of boxes of each image that was timed.
        machine: description of the machine.
        format: 1 was the file benchmark.json, which is read as well.
    """

    methods: Mapping[str, MethodResult]
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 0
    images: int = 0
    objects: int = 0
    boxes_of_timed_images: Sequence[int] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "QuantizationReport":
        """Parse a file's content, of this format or of format 1; raise ValueError for damage."""
        with parsing("quantization results"):
            content = _with_methods(content)
            methods = {name: MethodResult.from_json(one) for name, one in content["methods"].items()}
            known = {key: content[key] for key in cls.__dataclass_fields__ if key in content}
            return cls(**known | {"methods": methods, "settings": _with_methods(content.get("settings", {}))})

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads."""
        return {**vars(self), "methods": {name: method.to_json() for name, method in self.methods.items()}}


def _with_methods(content: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the key `kinds` of format 1."""
    return {"methods" if key == "kinds" else key: value for key, value in content.items()}


# ------------------------------------------------------------------------------------------------ benchmark.json
@dataclass(kw_only=True)
class BenchmarkCompetitor:
    """A row of the benchmark's tables.

    Attributes:
        title: its name in tables; engine: how it runs.
        exported: facts about the exported model that it runs, if any.
        accuracy: macro `dsc` and `nsd` in [0, 1] of other cases, given to the run.
        load_s: seconds to open it; failed: why it did not take part, or "".
    """

    title: str
    engine: str = ""
    exported: Mapping[str, Any] | None = None
    accuracy: Mapping[str, float] | None = None
    load_s: float | None = None
    failed: str = ""


@dataclass(kw_only=True)
class BenchmarkedCase:
    """A timed case; `stride` n: every n-th slice of the volume of `whole_shape` was kept.

    object_slices: slices summed over objects; paper_s: seconds of the paper's baseline and of its proposed model.
    """

    shape: Sequence[int]
    whole_shape: Sequence[int]
    objects: int
    modality: str
    stride: int = 1
    object_slices: int = 0
    paper_s: Sequence[float] | None = None


@dataclass(kw_only=True)
class CaseTimes:
    """Results of one competitor on one case.

    Attributes:
        seconds: of the timed runs; read_s, write_s: of reading the case and writing the masks.
        peak_bytes: peak of resident memory while the case was in memory.
        found: number of boxes whose label is in the masks; dsc, nsd: in [0, 1], against the case's own masks.
        differing, foreground: voxels that differ from the reference's masks, and voxels in those; LiteMedSAM only.
        error: why there are no times, or "".
    """

    competitor: str
    case: str
    seconds: list[float] = field(default_factory=list)
    read_s: float | None = None
    write_s: float | None = None
    peak_bytes: int | None = None
    found: int | None = None
    differing: int | None = None
    foreground: int | None = None
    dsc: float | None = None
    nsd: float | None = None
    error: str = ""


@dataclass(kw_only=True)
class ColdStart:
    """Seconds of whole processes of one command on one case; parts: seconds by phase of the last run."""

    case: str
    name: str
    title: str
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(kw_only=True)
class BenchmarkReport:
    """The benchmark's benchmark.json; `errors`: what failed beside competitors and cases, by name.

    peaks, profiles: matrix products per second and the encoders' layers, in documents of earlier versions.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    time: str = ""
    command: str = ""
    format: int = 2
    competitors: dict[str, BenchmarkCompetitor] = field(default_factory=dict)
    cases: dict[str, BenchmarkedCase] = field(default_factory=dict)
    results: list[CaseTimes] = field(default_factory=list)
    cold: list[ColdStart] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    peaks: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Any) -> "BenchmarkReport":
        """Parse a file's content, of this format or of format 1; raise ValueError where it is damaged."""
        try:
            given = _known(cls, _rename(content))
            given["competitors"] = {
                name: _build(BenchmarkCompetitor, one) for name, one in given["competitors"].items()
            }
            given["cases"] = {name: _build(BenchmarkedCase, one) for name, one in given["cases"].items()}
            given["results"] = [_build(CaseTimes, one) for one in given.get("results", [])]
            given["cold"] = [_build(ColdStart, one) for one in given.get("cold", [])]
            return cls(**given)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"a benchmark cannot be read ({error!r}); run graysam benchmark again") from None

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads; numbers that are not finite become None."""
        document: dict[str, Any] = _finite(asdict(self))
        return document


FORMER_KEYS: Mapping[str, str] = {  # in benchmark.json of format 1
    "contend" + "ers": "competitors",
    "contend" + "er": "competitor",
    "bundle": "exported",
    "troubles": "errors",
}


def _rename(content: Any) -> Any:
    if isinstance(content, list):
        return [_rename(one) for one in content]
    if isinstance(content, dict):
        return {FORMER_KEYS.get(key, key): _rename(one) for key, one in content.items()}
    return content


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(one) for key, one in content.items()}
    if isinstance(content, list):
        return [_finite(one) for one in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _known(kind: Any, content: Any) -> dict[str, Any]:
    return {key: content[key] for key in kind.__dataclass_fields__ if key in content}


def _build(kind: Any, content: Any) -> Any:
    return kind(**_known(kind, content))
