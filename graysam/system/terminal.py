"""Command-line input and output: progress as a bar or plain lines, errors in one line, comma-separated lists."""

import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TypeVar

FAILED = 1  # exit code of a command that could not do all it was asked
BAD_INPUT = 2  # exit code of every command for input that cannot be used

Item = TypeVar("Item")


def progress(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and report on the standard error how many are done.

    Args:
        items: what to process; empty reports nothing.
        title: of the work, e.g. `packing`.
        total: number of items; None takes len(items).
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm  # only here: it is not needed without a terminal

        yield from tqdm(items, total=count, desc=title)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if done == count or time.monotonic() - last > 10:
            last = time.monotonic()
            print(f"{title}: {done} of {count}", file=sys.stderr, flush=True)


def parse_list(text: str) -> list[str]:
    """Return the parts of `A,B,C`; [] for an empty text."""
    return [word for word in text.split(",") if word]


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, or its class where it has none.

    A DataLoader worker sends its error with the traceback before the message, which is left out.
    """
    text = str(error)
    if "Original Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\s\x20-\x7e\xa0-\U0010ffff]", "", text)  # a terminal's codes
    return " ".join(text.split())[:2000] or type(error).__name__  # more would fill the screen


def printable(text: str) -> str:
    """Return a text that can be encoded: a byte of a file name that is not UTF-8 becomes an escape such as \\udce9."""
    return text.encode("utf-8", "backslashreplace").decode()


def format_ranges(numbers: Sequence[int]) -> str:
    """Return ascending whole numbers in short, e.g. `1-3, 7`."""
    ends = [i for i, number in enumerate(numbers) if i + 1 == len(numbers) or numbers[i + 1] != number + 1]
    starts = [0, *(end + 1 for end in ends[:-1])]
    pairs = [(numbers[start], numbers[end]) for start, end in zip(starts, ends, strict=True)]
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in pairs)


def check_at_least(least: int, name: str, value: float | None) -> None:
    """Raise ValueError where a setting is below its least value; None, which means no limit, is accepted."""
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}; required: at least {least}")


def report_problems(problems: Sequence[str]) -> int:
    """Print what could not be done to the standard error, one line each; return FAILED, or 0 for no problems."""
    sys.stderr.writelines(f"error: {problem}\n" for problem in problems)
    return FAILED if problems else 0


def suggestion(name: str, valid: Iterable[object]) -> str:
    """Return the end of a message about an unknown name: the nearest valid name, "" where none is near."""
    near = get_close_matches(name, sorted(set(map(str, valid))), n=1, cutoff=0.65)
    return f"; did you mean {near[0]!r}?" if near else ""


def exit_reason(error_output: str, code: int) -> str:
    """Return in one line why a child process ended: by a signal (a negative code), or its last line of errors."""
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}; check that there is enough memory"
    lines = [line.strip() for line in error_output.splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with exit code {code}"
