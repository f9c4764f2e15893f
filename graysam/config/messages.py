"""Parts of error messages about configs."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from graysam.system.renamed import RENAMED_KEYS

MAX_VALUE_LENGTH = 80


def first_line(error: BaseException) -> str:
    """Return an exception's message up to its second line, without links to Hydra's documentation."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "https://hydra.cc" not in line]
    return " ".join(lines[:2]) or type(error).__name__


def suggestion(name: str, valid: Iterable[object], path: str = "") -> str:
    """Return the end of a message about an unknown name: the nearest valid name, or the new name of its key path."""
    if path in RENAMED_KEYS:
        return f"; it was renamed to {RENAMED_KEYS[path]}"
    near = get_close_matches(name, sorted(set(map(str, valid))), n=1, cutoff=0.65)
    return f"; did you mean {near[0]!r}?" if near else ""


def format_value(value: Any) -> str:
    """Return a plain value as YAML writes it, shortened to MAX_VALUE_LENGTH characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 4]} ..."
