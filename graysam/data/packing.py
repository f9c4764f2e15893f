"""Pack a folder of cases into shards, an index and a manifest, byte-identical for any number of workers."""

import multiprocessing
import re
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import cv2

from graysam.data.encoding import EncodedSample
from graysam.data.shard_writing import ShardWriter, check_output
from graysam.data.split import SampleOrigin, Split, Subject
from graysam.system.files import replacing_folder
from graysam.system.terminal import one_line, progress

Item = TypeVar("Item")
Result = TypeVar("Result")
NOBODY = Subject("", "")
UNLABELLED = {"by": "nothing: there are no masks", "groups_without_val": []}


@dataclass(frozen=True)
class PackedCase:
    """The samples of one case, and counts of what was left out; or the one-line reason why there are none."""

    file: str  # relative to the input folder
    subject: Subject = NOBODY
    samples: tuple[EncodedSample, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    error: str | None = None


@dataclass(frozen=True)
class PackReport:
    """The manifest as written, and the bad files with their reasons."""

    manifest: dict[str, Any]
    bad: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A folder of cases in one layout. Sources are pickled, because processes read their cases.

    Args:
        folder: searched recursively; hidden files are skipped.
        size: longest side of the stored images in pixels.
    """

    layout: ClassVar[str]  # the manifest's `source`
    suffixes: ClassVar[frozenset[str]]
    required: ClassVar[str]  # how files are named

    folder: Path
    size: int

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}; required: 16 to 4096 pixels (the network's is 256)")

    def list_files(self) -> list[str]:
        """Return the case files, relative to the folder, sorted.

        Raises:
            ValueError: the folder is absent or holds no case file, or two files would get the same key.
        """
        if not self.folder.is_dir():
            raise ValueError(f"input_dir {self.folder} is not a directory; required: a folder with {self.required}")
        paths = (path for path in self.folder.rglob("*") if path.suffix.lower() in self.suffixes and path.is_file())
        files = sorted(path.relative_to(self.folder).as_posix() for path in paths if not path.name.startswith("."))
        if not files:
            raise ValueError(f"input_dir {self.folder} holds no case files; required: {self.required}")
        by_key: dict[str, str] = {}
        for file in files:
            other = by_key.setdefault(self.key_of(file), file)
            if other != file:
                raise ValueError(f"{self.folder}: {other} and {file} would get the same key; rename one")
        return files

    @abstractmethod
    def key_of(self, file: str) -> str:
        """Return the beginning of the keys of a file's samples."""

    @abstractmethod
    def encode(self, file: str) -> PackedCase:
        """Read a file and encode its samples.

        Raises:
            ValueError, OSError, cv2.error, MemoryError: the file cannot be used.
        """

    def encode_or_report(self, file: str) -> PackedCase:
        """Encode a file; one that cannot be used gives a PackedCase with `error`."""
        try:
            return self.encode(file)
        except MemoryError:
            return PackedCase(file, error="does not fit into memory; use fewer workers or crop the case")
        except (ValueError, OSError, cv2.error) as error:
            return PackedCase(file, error=one_line(error).removeprefix(f"{self.folder / file}: "))

    def settings(self) -> dict[str, Any]:
        """Return the settings of this layout for the manifest."""
        return {}


def key_from(name: str) -> str:
    """Return a name as a shard key: all but letters, digits, - and _ becomes - (dots end keys)."""
    return re.sub(r"[^\w-]", "-", name)


def pack(
    source: Source,
    output_dir: str | Path,
    *,
    samples_per_shard: int,
    split: Split | None,
    workers: int = 1,
    overwrite: bool = False,
) -> PackReport:
    """Pack all cases of a source into shards.

    Args:
        source: the cases; a bad file is left out and reported.
        output_dir: appears when everything is written, or not at all.
        samples_per_shard: most samples of a tar file.
        split: into training and validation; None for images without masks, which form the split `unlabelled`.
        workers: processes, each of which holds one case at a time; the output does not depend on their number.
        overwrite: whether shards in output_dir are replaced.

    Raises:
        ValueError: no usable file in the input folder, two files with the same key, or an output folder in use.
    """
    output_dir = Path(output_dir)
    if workers < 1:
        raise ValueError(f"workers is {workers}; required: 1 or more")
    check_output(output_dir, overwrite)
    files = source.list_files()
    bad: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    written: list[SampleOrigin] = []
    with (
        replacing_folder(output_dir, replace_existing=overwrite) as folder,
        ShardWriter(folder, samples_per_shard) as writer,
    ):
        for case in progress(in_order(source.encode_or_report, files, workers), "packing", len(files)):
            if case.error is not None:
                bad[case.file] = case.error
            left_out += case.left_out
            for sample in case.samples:
                writer.write(sample)
                written.append(SampleOrigin(sample.key, sample.group, case.subject))
        if not written:
            first = next((f"; the first of {len(bad)} bad files: {name}: {why}" for name, why in bad.items()), "")
            raise ValueError(f"{source.folder}: none of {len(files)} files gave a sample{first}")
        sides, described = (["unlabelled"] * len(written), UNLABELLED) if split is None else split.assign(written)
        manifest = writer.finish(
            sides,
            {
                "source": source.layout,
                "split": described,
                "packing": {"size": source.size, "samples_per_shard": samples_per_shard, **source.settings()},
                "cases": {"found": len(files), "bad": bad},
                "left_out": dict(sorted(left_out.items())),
            },
        )
    return PackReport(manifest, bad)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map a function over items in processes and yield the results in the items' order.

    At most two items a worker are submitted at once, so that finished results do not pile up behind a slow one.

    Raises:
        ValueError: a worker was killed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    pending: deque[Any] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise ValueError(
            f"one of {workers} workers was killed, probably for want of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
