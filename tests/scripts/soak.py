"""Call commands at random with random trouble of nine kinds, and check what must hold after every call.

python -m tests.scripts.soak --calls 2000 --processes 200 --seed 0 --log soak.jsonl

Each call has a folder of its own with a few small cases, one or two troubles (`tests/support/troubles.py`) and one
command. After it: no traceback; exit code 0, 1 or 2; every entry of the input was used, named or counted; good cases
are done; inputs and earlier outputs are as they were; no temporary file is left. The same command resumes from the log,
and `--only K` makes call K again and keeps its folder.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import io
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from tabulate import tabulate

from graysam.data.shards import ShardReader
from graysam.imaging.canvas import content_hash
from graysam.inference.predictor import Predictor
from graysam.io.image import read_image, write_mask
from graysam.io.listing import list_folder
from graysam.system.terminal import one_line, printable, progress
from tests.support.commands import save_tiny_model
from tests.support.exported_models import write_tiny_exported
from tests.support.packing import pack as pack_cases
from tests.support.packing import save
from tests.support.troubles import KINDS, TROUBLES
from tests.support.world import World, good_case

ROOT = Path(__file__).parents[2]
SECONDS = 240  # of one call at most
INSIDE = ("python", "shards")  # no commands, but classes
TEMPORARY = re.compile(r"\..*\.(tmp|old)$|\.incoming-.*|.*\.part$")
FOREIGN_WORDS = re.compile(r"weights_only=False|LexerNoViableAlt|ParserRuleContext|\x1b\[|add -m")
REASON = re.compile(r"(?:not read in .*?: |left out, [^:]*: )(.*)")


class Done(NamedTuple):
    """The end of a call: exit code (None after an exception that nothing caught), and all it printed."""

    code: int | None
    text: str


class Hang(BaseException):
    """A call took too long; not an Exception, which a command would report as an error of its own."""


def make_base(folder: Path) -> None:
    """Write the models and shards that all calls share."""
    import torch

    write_tiny_exported(folder / "tiny")
    write_tiny_exported(folder / "tiny_nan", level=np.nan)
    state = torch.load(save_tiny_model(folder / "nan.ckpt"), weights_only=True)
    next(iter(state["state_dict"].values())).view(-1)[0] = torch.nan
    torch.save(state, folder / "nan.ckpt")
    for number in range(8):
        case = good_case(np.random.default_rng(number), volume=False)
        save(folder / "raw" / f"US_toy_{number}.npz", imgs=case["imgs"], gts=case["gts"])
    for name, seed in (("a", 0), ("b", 1)):
        pack_cases(folder / "raw", folder / f"shards_{name}", val_fraction=0.25, seed=seed)


def plan(number: int, seed: int, by_process: bool, folder: Path, base: Path) -> tuple[World, list[str], int]:
    """Return the world of a call, the names of its troubles and the kind of the first; all follow from the seed."""
    rng = np.random.default_rng([seed, number])
    kind = 1 + number % len(KINDS)
    first = rng.choice([i for i, of in enumerate(TROUBLES) if of.kind == kind and by_process >= of.process])
    chosen = [TROUBLES[first]]
    command = str(rng.choice([name for name in chosen[0].commands if name not in INSIDE or not by_process]))
    if command not in ("train", "shards") and rng.random() < 0.4:
        others = [of for of in TROUBLES if command in of.commands and of.kind != kind and by_process >= of.process]
        chosen.append(others[rng.integers(len(others))])
    world = World(folder, base, rng, command)
    for case in range(int(rng.integers(2, 5))):
        volume = bool(rng.random() < 0.3)
        modality = str(rng.choice(["US", "CT", "MR"]))
        world.cases[f"{'3DBox' if volume else '2DBox'}_{modality}_toy_{case}"] = good_case(rng, volume)
    for trouble in chosen:
        trouble.make(world)
    world.write()
    return world, [trouble.name for trouble in chosen], kind


def snapshot(folder: Path) -> dict[Path, str]:
    """Return what lies in a folder: links by target, files by hash, others by type."""
    found = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *files]):
            mode = path.lstat().st_mode
            content = os.readlink(path) if stat.S_ISLNK(mode) else ""
            if stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path] = f"{stat.S_IFMT(mode):o} {content}"
    return found


# Running


def python_door(argv: Sequence[str]) -> int:
    """Do by the classes what `predict` does: read, segment, write; return an exit code."""
    folder, output, model = (Path(argv[argv.index(option) + 1]) for option in ("-i", "-o", "--model"))
    code = 0
    listing = list_folder(folder)
    print(*listing.describe(folder), file=sys.stderr)
    try:
        predictor = Predictor(model)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    for path in listing.files:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                image = read_image(path)
                with np.load(path) as file:
                    boxes = file["boxes"]
                labels = predictor.predict(image, boxes)
            for warning in caught:
                print(f"note: {path.name}: {warning.message}", file=sys.stderr)
            if (output / f"{path.stem}.npz").exists():
                raise ValueError("is there already")  # a caller's own rule: the class writes where it is told to
            write_mask(output / f"{path.stem}.npz", labels, like=image)
        except (ValueError, OSError, KeyError) as error:
            code = 1
            print(f"error: {path.name}: {one_line(error)}", file=sys.stderr)
    return code


def shards_door(argv: Sequence[str]) -> int:
    """Join folders of shards, and raise where an image is both trained on and held out."""
    folders = [Path(word) for word in argv if not word.startswith("-")]
    try:
        reader = ShardReader(*folders, drop_leaked="--drop-leaked" in argv)
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    assert len(set(reader.keys)) == len(reader)
    images: dict[str, set[str]] = {"train": set(), "val": set()}
    for row, split in enumerate(reader.splits):
        images[split].add(content_hash(reader.read(row).image))
    assert len(folders) == 1 or not images["train"] & images["val"], "an image is trained on and held out"
    return 0


def run_inside(world: World) -> Done:
    """Run a command in this process, its streams as `secure_streams` makes them."""
    doors: dict[str, Callable[[list[str]], int]] = {"python": python_door, "shards": shards_door}
    main = doors.get(world.command)
    if main is None:
        main = importlib.import_module(f"graysam.{world.command}").main
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
    err = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
    code: int | None = None
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(world.folder),
            mock.patch.dict(os.environ, world.environment),
            mock.patch.object(sys, "argv", [world.command, *world.argv()]),
            warnings.catch_warnings(),
            _logging_kept(),
        ):
            warnings.simplefilter("default")
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's, of numbers that overflow
            code = main(world.argv())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 2
    except (Exception, Hang):
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
    return Done(code, raw.getvalue().decode(errors="backslashreplace"))


def _hang(*_: object) -> None:
    raise Hang(f"not done in {SECONDS} s")


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Give loggers their handlers back, which keep streams of this call."""
    if absl := sys.modules.get("absl.logging"):  # Hydra closes the stream of its handler
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
    loggers = [logging.getLogger(name) for name in (None, "lightning", "lightning.pytorch", "lightning.fabric")]
    before = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers = handlers


def run_process(world: World) -> Done:
    """Run a command as a process, its streams closed or broken where the world says so."""
    redirect = {
        "closed stdout": ">&-",
        "closed stderr": "2>&-",
        "closed stdin": "<&-",
        "all closed": "<&- >&- 2>&-",
        "full": ">/dev/full",
    }.get(world.streams, "")
    command = [sys.executable, "-m", f"graysam.{world.command}", *world.argv()]
    shell = f'exec "$@" {redirect}' if world.streams != "broken pipe" else 'set -o pipefail; "$@" | true'
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **world.environment,
    }
    try:
        done = subprocess.run(
            ["bash", "-c", shell, "bash", *command],
            capture_output=True,
            cwd=world.folder,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return Done(None, f"{one_line(error)} {error.stderr!r}")
    return Done(done.returncode, (done.stdout + done.stderr).decode(errors="backslashreplace"))


# Checking


def check(world: World, done: Done, before: dict[Path, str]) -> list[str]:
    """Return what does not hold after a call."""
    faults = []
    if done.code not in (0, 1, 2):
        faults.append(f"exit code {done.code}")
    if "Traceback" in done.text:
        faults.append("traceback")
    if words := FOREIGN_WORDS.search(done.text):
        faults.append(f"foreign words: {words[0]!r}")
    after = snapshot(world.folder)
    changed = [path for path in before if after.get(path) != before[path] and path not in world.may_change]
    faults += [f"changed: {path.relative_to(world.folder)}" for path in changed]
    faults += [f"left behind: {path.relative_to(world.folder)}" for path in after if TEMPORARY.match(path.name)]
    silent = world.streams in ("closed stderr", "all closed")
    if done.code == 2:
        if not world.whole and set(world.cases) - world.bad:
            faults.append("all was refused for a trouble that concerns a case")
        if "error: " not in done.text and "usage: " not in done.text and not silent:
            faults.append("refused without a reason")
    elif done.code in (0, 1) and world.command not in ("train", "shards"):
        faults += unaccounted(world, done, after, before) if not silent else []
        said = [] if world.streams else [words for name, words in world.said if name not in world.bad]
        faults += [f"not said: {words}" for words in said if words not in done.text]
    return [printable(fault) for fault in faults]


def unaccounted(world: World, done: Done, after: dict[Path, str], before: dict[Path, str]) -> list[str]:
    """Return the good cases that are not done, and the entries that are neither used, named nor counted."""
    produced = names_done(world, after)
    faults = [f"a good case is not done: {name}" for name in world.cases if name not in world.bad | produced]
    stale = [world.output() / f"{name}.npz" for name in world.bad - produced if world.command == "predict"]
    faults += [f"left of an earlier run: {path.name}" for path in stale if path in after and str(path) not in done.text]
    folder = world.input()
    entries = [path for path in before if path.is_relative_to(folder) and path != folder]
    if world.command != "pack":
        entries = [path for path in entries if path.parent == folder]
    else:
        entries = [path for path in entries if not path.is_dir() or path.is_symlink()]
    said = " ".join(done.text.split())
    silent = [path for path in entries if path.stem not in produced and not named(path, said)]
    counted = sum(int(count) for line in done.text.splitlines() if (match := REASON.search(line))
                  for count in re.findall(r"(?:^|, )(\d+)", match[1]))  # fmt: skip
    if len(silent) > counted:
        faults.append(f"{len(silent)} entries are not accounted for, {counted} are counted: {silent[0].name}")
    return faults


def named(path: Path, said: str) -> bool:
    """Return whether a file is named in a text whose white space is single spaces."""
    return " ".join(printable(path.stem).split()) in said or repr(path.stem)[1:-1] in said


def names_done(world: World, after: dict[Path, str]) -> set[str]:
    """Return the names of the cases with a new result."""
    output = world.output()
    if world.command in ("predict", "python"):
        output = output.resolve()  # it may be a link
        return {path.stem for path in after if path.parent == output and path.lstat().st_mtime >= world.started}
    try:
        if world.command == "evaluate":
            if not stat.S_ISREG(output.stat().st_mode):
                return set(world.cases)  # a device or a FIFO, of which nothing can be read
            with output.open(newline="", encoding="utf-8") as file:
                scored = {row[0] for row in csv.reader(file) if row}
            return {name for name in world.cases if printable(name) in scored}
        reader = ShardReader(output)
        return {reader.read(row).meta["case_id"] for row in range(len(reader))}
    except (OSError, ValueError):
        return set()


# The calls


def call(number: int, seed: int, by_process: bool, folder: Path, base: Path) -> dict[str, Any]:
    """Make one call and return its record."""
    started = time.monotonic()
    world, troubles, kind = plan(number, seed, by_process, folder, base)
    fifos = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in (world.output(),) if path.is_fifo()]
    before = snapshot(folder)
    world.started = time.time() - 0.01  # file systems have a clock of their own
    done = run_process(world) if by_process else run_inside(world)
    for fifo in fifos:
        os.close(fifo)
    faults = check(world, done, before)
    record = {"call": number, "seed": seed, "kind": kind, "command": world.command, "process": by_process}
    record |= {"troubles": troubles, "code": done.code, "seconds": round(time.monotonic() - started, 2)}
    record |= {"argv": [printable(word) for word in world.argv()], "faults": faults}
    return record | ({"text": done.text[-3000:]} if faults else {})


def read_log(path: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Return the records by call; a last line that a kill cut off is dropped from the file."""
    records: dict[int, dict[str, Any]] = {}
    whole = 0
    content = path.read_bytes() if path.exists() else b""
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        record = json.loads(line)
        if record["seed"] != seed:
            raise SystemExit(f"{path} is of seed {record['seed']}; give another --log or that --seed")
        records[record["call"]] = record
        whole += len(line)
    if whole < len(content):
        os.truncate(path, whole)
    return records


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Return tables of the calls by kind and outcome, and a paragraph for each with a fault."""
    outcomes = {0: "all done", 1: "in part", 2: "refused"}
    rows = []
    for kind, title in KINDS.items():
        of = [record for record in records if record["kind"] == kind]
        counts = Counter(outcomes.get(record["code"], "other") for record in of)
        faulty = sum(bool(record["faults"]) for record in of)
        numbers = [counts[name] for name in (*outcomes.values(), "other")]
        rows.append([f"{kind}. {title}", len(of), sum(record["process"] for record in of), *numbers, faulty])
    rows.append(["all", *(sum(row[column] for row in rows) for column in range(1, 8))])
    text = tabulate(rows, ("kind", "calls", "processes", *outcomes.values(), "other", "with faults"))
    for record in records:
        if record["faults"]:
            shown = [f"  {line}" for line in record.get("text", "").splitlines()[-6:]]
            head = f"call {record['call']}: {record['command']} {record['troubles']}: {'; '.join(record['faults'])}"
            again = f"  python -m tests.scripts.soak --seed {record['seed']} --only {record['call']}"
            text += "\n\n" + "\n".join([head, again + (" --as-process" if record["process"] else ""), *shown])
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Make the calls that the log does not hold yet; return 1 where one has a fault."""
    parser = argparse.ArgumentParser(description="Call commands with random trouble.")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=200, help="how many of them run as processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="JSON lines; resumed where it exists")
    parser.add_argument("--only", type=int, metavar="K", help="make call K alone, and keep its folder")
    parser.add_argument("--as-process", action="store_true", help="with --only: as a process")
    arguments = parser.parse_args(argv)
    processes = set(np.random.default_rng(arguments.seed).permutation(arguments.calls)[: arguments.processes].tolist())
    with tempfile.TemporaryDirectory() as temporary, mock.patch.dict(os.environ):
        base = Path(temporary) / "base"
        os.environ["GRAYSAM_CACHE"] = str(base / "cache")
        make_base(base)
        if arguments.only is not None:
            folder = Path(tempfile.mkdtemp(prefix="soak-"))
            record = call(arguments.only, arguments.seed, arguments.as_process, folder, base)
            print(f"{summary([record])}\n\n{json.dumps(record, indent=1)}\n{folder}")
            return int(bool(record["faults"]))
        records = read_log(arguments.log, arguments.seed) if arguments.log else {}
        numbers = [number for number in range(arguments.calls) if number not in records]
        unchanged = snapshot(base)
        for number in progress(numbers, "soak"):
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                records[number] = call(number, arguments.seed, number in processes, Path(folder), base)
            if arguments.log:
                with arguments.log.open("a") as file:
                    file.write(json.dumps(records[number]) + "\n")
        after = snapshot(base)
        assert all(after[path] == unchanged[path] for path in unchanged), "a model or the shards were changed"
    print(summary([records[number] for number in sorted(records)]))
    return int(any(record["faults"] for record in records.values()))


if __name__ == "__main__":
    raise SystemExit(main())
