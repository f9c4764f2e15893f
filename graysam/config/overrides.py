"""Overrides as people type them: a value that Hydra's grammar does not know is taken as it stands, in quotes."""

import os
import re
import shlex
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from graysam.config.composing import expand_home, first_line

STRUCTURE = ("[", "{", "(", "'", '"')  # a value that begins with one of these is no plain text
PARSER_WORDS = re.compile(r"\w+Exception|<\w+>|\b(expecting|extraneous|mismatched|token|viable|missing [A-Z]+)\b")


def quote(text: str, mark: str = "'") -> str:
    """Return a text as Hydra's grammar quotes it; backslashes are doubled only where a quote follows."""
    return mark + re.sub(rf"(\\*)({mark}|\Z)", lambda m: 2 * m[1] + (f"\\{m[2]}" if m[2] else ""), text) + mark


def literal_overrides(overrides: Sequence[str]) -> list[str]:
    """Return overrides that Hydra can parse: a value with other letters or unmatched brackets becomes a quoted text.

    Raises:
        ValueError: in one line, the override that cannot be read, where possible with what to type instead.
    """
    parser = OverridesParser.create()
    return [_literal(override, parser) for override in overrides]


def typed(override: str) -> str:
    """Return the word for a shell's command line that gives an override's value as one text."""
    key, _, value = override.partition("=")
    return shlex.quote(f"{key}={quote(value, chr(34))}")


def comma_hint(overrides: Sequence[str], keys: Collection[str]) -> str:
    """Return the end of a message about keys with several values where these are an existing path with a comma."""
    given = ((override, *override.partition("=")[::2]) for override in overrides)
    paths = [override for override, key, value in given if key.lstrip("+") in keys and _exists(value)]
    return "".join(f"; the path with a comma needs quotes of its own: {typed(override)}" for override in paths)


def _literal(override: str, parser: OverridesParser) -> str:
    key, equals, value = override.partition("=")
    reason = _problem(override, parser)
    if reason is None and not (value != value.strip() and _exists(value)):  # Hydra drops blanks at the end
        return override
    is_text = bool(equals) and (_exists(value) or not (value.startswith(STRUCTURE) or "," in value))
    quoted = f"{key}={quote(expand_home(value))}"
    if is_text and _problem(quoted, parser) is None:
        return quoted
    reason = "it cannot be read" if not reason or PARSER_WORDS.search(reason) else reason
    inside = re.fullmatch(r"(\[?)([^\[\]{}()'\"]+)(\]?)", value)
    if not inside or bool(inside[1]) != bool(inside[3]):
        raise ValueError(f"{override}: {reason}")
    items = ",".join(
        item if _problem(f"x={item}", parser) is None else quote(item, '"') for item in inside[2].split(",")
    )
    instead = f"{key}={inside[1]}{items}{inside[3]}"
    hint = f"; each text with such letters needs quotes of its own: {shlex.quote(instead)}"
    raise ValueError(f"{override}: {reason}{'' if _problem(instead, parser) else hint}")


def _problem(override: str, parser: OverridesParser) -> str | None:
    """Return why Hydra cannot parse an override; None where it can."""
    try:
        parser.parse_override(override)
    except HydraException as error:
        return first_line(error)
    return None


def _exists(path: str) -> bool:
    return os.path.lexists(os.path.expanduser(path))
