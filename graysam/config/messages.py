"""What messages about a config have in common: one line, the value as YAML writes it, the nearest valid name."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_LISTED = 12  # so many valid names still fit into one line
_ALIKE = 0.65  # difflib's 0.6 takes `unused` for `seed`
_LENGTH = 80  # of a value in a message


def first_line(error: Exception) -> str:
    """Return Hydra's message without its traceback and hints, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "https://hydra.cc" not in line]
    return " ".join(lines[:2]) if lines else type(error).__name__


def closest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is most like a given one, None when none is like it."""
    return next(iter(get_close_matches(name, sorted(set(valid)), n=1, cutoff=_ALIKE)), None)


def meant(name: str, valid: Iterable[str]) -> str:
    """Return how a message about an unknown name ends: the nearest valid one, nothing where none is like it."""
    near = closest(name, valid)
    return "" if near is None else f"; did you mean {near!r}?"


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Return how a message about an unknown name ends: the nearest valid one, else all of them where they are few."""
    names = sorted(set(valid))
    listed = f"; valid are {', '.join(names)}" if 0 < len(names) <= _LISTED else ""
    return meant(name, names) or listed


def shown(value: Any) -> str:
    """Return a plain value as a message shows it: strings in quotes, null, true and false as in YAML."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=lambda _: "...")
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 4]} ..."
