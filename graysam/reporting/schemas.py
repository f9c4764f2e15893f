"""Result files: the names of a run's files, and a dataclass for quantization.json and for benchmark.json."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

from graysam.metrics.aggregation import MACRO

CONFIG, RUN, SUMMARY, QUANTIZATION = "config.json", "run.json", "summary.json", "quantization.json"  # of a run
TIMES = ("encoder_ms", "decoder_ms", "image_ms")


@dataclass(frozen=True)
class Score:
    """DSC and NSD in [0, 1], means over n objects."""

    dsc: float
    nsd: float
    n: int


class ObjectScore(NamedTuple):
    """DSC and NSD in [0, 1] of one object: the box of that number on the slice of that key in its shard."""

    key: str
    box: int
    modality: str
    dsc: float
    nsd: float


Scores = Mapping[str, Score]  # modality or MACRO -> score


@contextmanager
def parsing(file: str) -> Iterator[None]:
    """Raise ValueError that names the file for whatever missing or damaged content raises."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{file}: {error} is missing") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is not finite")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; raise ValueError for a missing or invalid file, or one with NaN."""
    with parsing(path.name):
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}; required: an object")
        return content


def parse_scores(content: Mapping[str, Any]) -> Scores:
    """Parse `{modality or macro: {"dsc", "nsd", "n"}}`; raise KeyError, TypeError or ValueError for damage."""
    if MACRO not in content:
        raise KeyError(MACRO)
    return {name: Score(float(row["dsc"]), float(row["nsd"]), int(row["n"])) for name, row in content.items()}


def _build(kind: Any, content: Mapping[str, Any], **given: Any) -> Any:
    """Make a dataclass of a JSON object; keys that are not its fields are ignored."""
    return kind(**{one.name: content[one.name] for one in fields(kind) if one.name in content} | given)


@dataclass(frozen=True)
class MethodResult:
    """Accuracy, times and size of a model's weights under one quantization method.

    Attributes:
        scores: modality or `macro` -> score.
        objects: scores of the validation objects.
        times_ms: each of TIMES -> `median`, `min`, `max` and `n` of its measurements.
        size_mb: size on disk in 10^6 bytes.
        quantized: `layers`, `parameters` and `macs` -> `image_encoder` and `heads` -> (quantized, all).
        reason: why the method could not run; "" where it ran. The other attributes are empty then.
    """

    scores: Scores = field(default_factory=dict)
    objects: Sequence[ObjectScore] = ()
    times_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    size_mb: float = math.nan
    quantized: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "MethodResult":
        """Parse one entry of `methods`; raise KeyError, TypeError or ValueError for damage."""
        if not content["available"]:
            return cls(reason=str(content["reason"]))
        objects = [ObjectScore(*row) for row in content.get("objects", [])]
        times = {key: content[key] for key in TIMES}
        quantized = content.get("quantized", {})
        return cls(parse_scores(content["scores"]), objects, times, float(content["size_mb"]), quantized)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads."""
        if self.reason:
            return {"available": False, "reason": self.reason}
        content = {"available": True, **asdict(self), **self.times_ms}
        return {key: value for key, value in content.items() if key not in ("times_ms", "reason")}


@dataclass(frozen=True)
class QuantizationReport:
    """A run's quantization.json: its best checkpoint under several quantization methods.

    Attributes:
        methods: name of a quantization method -> its result.
        checkpoint: name of the file.
        settings: what was compared and how; `settings["methods"]` keeps the order that was asked for.
        threads: of the CPU during timing.
        images, objects: numbers of those that were scored.
        boxes_of_timed_images: number of boxes of each.
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

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "QuantizationReport":
        """Parse a file's content; raise ValueError for damage."""
        with parsing("quantization results"):
            methods = {name: MethodResult.from_json(one) for name, one in content["methods"].items()}
            return cast(QuantizationReport, _build(cls, content, methods=methods))

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads."""
        return {**vars(self), "methods": {name: method.to_json() for name, method in self.methods.items()}}


@dataclass(kw_only=True)
class BenchmarkCompetitor:
    """A row of the benchmark's tables.

    Attributes:
        exported: facts about the exported model that it runs, if any.
        accuracy: macro `dsc` and `nsd` in [0, 1] of other cases, given to the run.
        failed: why it did not take part, or "".
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
        seconds: of the timed runs.
        peak_bytes: peak of resident memory while the case was in memory.
        found: number of boxes whose label is in the masks; dsc, nsd: in [0, 1], against the case's own masks.
        error: why there are no times, or "".
    """

    competitor: str
    case: str
    seconds: list[float] = field(default_factory=list)
    read_s: float | None = None
    write_s: float | None = None
    peak_bytes: int | None = None
    found: int | None = None
    dsc: float | None = None
    nsd: float | None = None
    error: str = ""


@dataclass(kw_only=True)
class ColdStart:
    """Seconds of whole processes of one command on one case."""

    case: str
    name: str
    title: str
    seconds: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(kw_only=True)
class BenchmarkReport:
    """The benchmark's benchmark.json; `errors`: what failed beside competitors and cases, by name."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    time: str = ""
    command: str = ""
    competitors: dict[str, BenchmarkCompetitor] = field(default_factory=dict)
    cases: dict[str, BenchmarkedCase] = field(default_factory=dict)
    results: list[CaseTimes] = field(default_factory=list)
    cold: list[ColdStart] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Any) -> "BenchmarkReport":
        """Parse a file's content; raise TypeError or AttributeError for damage."""
        report: Any = _build(cls, content)
        report.competitors = {name: _build(BenchmarkCompetitor, one) for name, one in report.competitors.items()}
        report.cases = {name: _build(BenchmarkedCase, one) for name, one in report.cases.items()}
        report.results = [_build(CaseTimes, one) for one in report.results]
        report.cold = [_build(ColdStart, one) for one in report.cold]
        return cast(BenchmarkReport, report)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that `from_json` reads; numbers that are not finite become None."""
        return dict(json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None))


def read_benchmark(path: Path) -> BenchmarkReport:
    """Read a benchmark.json of `graysam benchmark`; raise ValueError for a damaged one."""
    with parsing(f"the benchmark {path} cannot be read; run graysam benchmark again"):
        return BenchmarkReport.from_json(read_json_object(path))
