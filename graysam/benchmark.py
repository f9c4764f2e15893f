"""Time segmentation against LiteMedSAM and the challenge's winners: `python -m graysam.benchmark -o DIR --l0 FILE`.

Times the 14 cases of the paper's Table 5, or the cases of a folder, for every contender in a process of its own, in
turns. Writes `benchmark.json`, `benchmark.md`, `seconds.png` and, where accuracy is known, `accuracy.png`. A contender
that fails is reported, the others go on, and the exit code is then 1; arguments that cannot be used give exit code 2.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graysam.benchmarking.cases import CaseSource, choose, folder_cases
from graysam.benchmarking.contenders import CONTENDERS, choose_contenders
from graysam.benchmarking.harness import WorkerError
from graysam.benchmarking.machine import load_of_last_minute
from graysam.benchmarking.paper_cases import paper_cases
from graysam.benchmarking.preparing import prepare
from graysam.benchmarking.processes import interrupted_by_sigterm
from graysam.benchmarking.running import Entry, Options, run
from graysam.benchmarking.tables import failures, markdown
from graysam.benchmarking.timing import Repeats
from graysam.imaging.presets import scheme_names
from graysam.metrics.aggregation import macro_average
from graysam.metrics.challenge import CaseMetrics
from graysam.reporting.evaluation import read_metrics
from graysam.system.extras import require
from graysam.system.files import replacing, write_json_file
from graysam.system.terminal import BAD_INPUT, FAILED, one_line, parse_list

SLICES = 16  # of volumes; with it and the peer a run takes about ten minutes on two cores
ALL_SLICES = sys.maxsize
INTERRUPTED = 130  # exit code, as shells have it for Ctrl-C
COLD_CASES = ("2DBox_US_0525",)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    found = argparse.ArgumentParser(
        prog="python -m graysam.benchmark", description="Time contenders on cases, in turns."
    )
    add = found.add_argument
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for JSON, Markdown and charts")
    add("--input", type=Path, metavar="DIR", help="folder of case files instead of the paper's 14 cases")
    add("--gts", type=Path, metavar="DIR", help="folder of their masks (default: the input's `gts` beside its `imgs`)")
    add("--cases", type=parse_list, default=[], metavar="A,B", help="only cases whose names hold one of these words")
    add("--contenders", type=parse_list, default=[], metavar="A,B", help=f"of {', '.join(CONTENDERS)}; default: all")
    add("--l0", metavar="FILE", help="weights of the L0 rows, such as graysam_l0; without them left out")
    add("--channels", choices=scheme_names(), help="channel scheme of --l0 where the file does not say it")
    add("--bundle", type=_pair, action="append", default=[], metavar="NAME=DIR", help="the bundle a contender runs")
    add("--accuracy", type=_pair, action="append", default=[], metavar="NAME=CSV", help="its metrics.csv of evaluate")
    add("--threads", type=_count, default=2, help="CPU threads of every contender (default: 2)")
    add("--slices", type=_slices, metavar="N|all", help=f"that boxes need a volume (default: {SLICES}; --input: all)")
    add("--repeats", type=_count, default=7, help="most timed runs a case (default: 7)")
    add("--repeat-seconds", type=float, default=3.0, help="repeat while runs fit into so many seconds (default: 3)")
    add("--cold", type=int, default=0, metavar="N", help="also time N processes a command, from start to end")
    add(
        "--cold-cases",
        type=parse_list,
        default=list(COLD_CASES),
        metavar="A,B",
        help=f"default: {','.join(COLD_CASES)}",
    )
    add("--no-check", action="store_true", help="do not hold LiteMedSAM's masks against graysam's")
    add("--no-peaks", action="store_true", help="do not measure the machine's peak and the encoders alone")
    return found


def _pair(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count}; required: at least 1")
    return count


def _slices(text: str) -> int:
    return ALL_SLICES if text == "all" else _count(text)


def read_accuracy(path: Path) -> dict[str, float]:
    """Return macro DSC and NSD (fractions) of a `metrics.csv` that `graysam.evaluate` wrote.

    Raises:
        ValueError: no such file, or one without its columns.
    """
    scored = [(case.modality, case.metrics) for case in read_metrics(path) if case.metrics is not None]
    if not scored:
        raise ValueError(f"{path} holds no case; give a metrics.csv of graysam.evaluate")
    mean = CaseMetrics(*macro_average(scored).tolist())
    return {"dsc": mean.dsc, "nsd": mean.nsd}


def plan(arguments: argparse.Namespace) -> tuple[list[CaseSource], list[Entry], Options]:
    """Return what is to be timed; bundles that are not there yet are exported.

    Raises:
        ValueError: whatever cannot work.
    """
    load = load_of_last_minute()  # before exports, which would count as somebody else's
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"-o {arguments.output} is a file; give a folder's name")
    if arguments.gts is not None and arguments.input is None:
        raise ValueError("--gts goes with --input: the masks of a folder's cases")
    if arguments.input is None:
        require("demo")  # the brain that the paper's cases are made from
    sources = paper_cases() if arguments.input is None else folder_cases(arguments.input, arguments.gts)
    sources = choose(sources, arguments.cases)
    bundles, accuracies = dict(arguments.bundle), dict(arguments.accuracy)
    contenders = choose_contenders(arguments.contenders, arguments.l0, bundles)
    if strangers := [name for name in accuracies if name not in {contender.name for contender in contenders}]:
        raise ValueError(f"--accuracy {strangers[0]}: no such contender in this run")
    scores = {name: read_accuracy(path) for name, path in accuracies.items()}
    entries = []
    for contender in contenders:
        bundle, problem = None, ""
        try:
            bundle = prepare(contender, l0=arguments.l0, channels=arguments.channels, bundles=bundles)
        except WorkerError as error:
            problem = f"not exported: {error}"
        entries.append(Entry(contender, bundle, scores.get(contender.name), problem))
    slices = arguments.slices
    if slices is None:  # masks of a folder's own cases are scored on whole volumes alone
        slices = SLICES if arguments.input is None else ALL_SLICES
    options = Options(
        threads=arguments.threads,
        slices=None if slices == ALL_SLICES else slices,
        repeats=Repeats(arguments.repeats, arguments.repeat_seconds),
        check=not arguments.no_check,
        cold_repeats=arguments.cold,
        cold_cases=arguments.cold_cases,
        peaks=not arguments.no_peaks,
        load=load,
    )
    return sources, entries, options


def write(document: dict[str, Any], folder: Path) -> list[str]:
    """Write the document, its tables and its charts; return notes on what was not written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_file(folder / "benchmark.json", document)
    with replacing(folder / "benchmark.md") as temporary:
        temporary.write_text(markdown(document), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        return ["no charts: they need matplotlib: pip install '.[benchmark]'"]
    from graysam.benchmarking.charts import write_accuracy_chart, write_seconds_chart

    write_seconds_chart(document, folder / "seconds.png")
    drawn = write_accuracy_chart(document, folder / "accuracy.png")
    return [] if drawn else ["no accuracy.png: no accuracy is known; give --accuracy, or cases with masks"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        sources, entries, options = plan(arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    try:
        with interrupted_by_sigterm():
            document = run(sources, entries, options, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print("error: stopped before the end; nothing is written", file=sys.stderr)
        return INTERRUPTED
    try:
        notes = write(document, arguments.output)
    except OSError as error:
        print(f"error: {arguments.output} cannot be written: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(markdown(document), end="")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    found = failures(document)
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return FAILED if found else 0


if __name__ == "__main__":
    sys.exit(main())
