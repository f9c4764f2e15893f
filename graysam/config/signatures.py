"""The objects a config names, held against the signatures of what builds them; nothing is built."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints, is_typeddict

from graysam.config.annotations import UNKNOWN, Built, choices, describe, fits
from graysam.config.messages import closest, first_line, meant, shown, suggestion

RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # Hydra's own keys
_ALIKE = 0.85  # a key so like a named argument is no further one of `**kwargs`


class Problem(NamedTuple):
    """A mistake: the key path it stands at, and what is wrong there, to be read after the path."""

    path: str
    text: str


@dataclass(frozen=True)
class Accepted:
    """What a mapping may hold: who takes it, the annotation of each key, the keys it must have, whether any other."""

    owner: str
    types: Mapping[str, Any]
    required: frozenset[str]
    others: bool = False


def join(path: str, key: Any) -> str:
    """Return the path of a key below another path, "" for the top."""
    return f"{path}.{key}" if path else str(key)


def accepted_by(factory: Callable[..., Any], owner: str) -> Accepted:
    """Return what a class or function takes by name; an annotation that cannot be evaluated is Any."""
    try:
        signature = inspect.signature(factory, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):  # e.g. a name imported for type checkers only
        signature = inspect.signature(factory)
    except ValueError:  # written in C, without a signature
        return Accepted(owner, {}, frozenset(), others=True)
    parameters = signature.parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Accepted(
        owner,
        {p.name: Any if p.annotation is p.empty or isinstance(p.annotation, str) else p.annotation for p in named},
        frozenset(p.name for p in named if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def accepted_keys(typed_dict: Any, owner: str) -> Accepted:
    """Return what a TypedDict declares."""
    return Accepted(owner, get_type_hints(typed_dict), typed_dict.__required_keys__)


def locate(target: str) -> Any:
    """Import what a dotted path names.

    Raises:
        ValueError: it cannot be imported; with the nearest name where there is one like it.
    """
    parts = target.split(".")
    found: Any = None
    for depth, part in enumerate(parts):
        owner, name = ".".join(parts[:depth]), ".".join(parts[: depth + 1])
        if depth and hasattr(found, part):
            found = getattr(found, part)
            continue
        unknown = f"{owner} has no {part!r}" if depth else f"there is no module {part!r}"
        if depth and not inspect.ismodule(found):
            raise ValueError(f"{unknown}{meant(part, dir(found))}")
        try:
            found = import_module(name)
        except Exception as error:  # a module may raise what it likes while it is imported
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                raise ValueError(f"{unknown}{meant(part, _members(found))}") from error
            raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    return found


def _members(module: Any) -> list[str]:
    """Return the names inside a module and of the modules below it; for None those of all top-level modules."""
    if module is None:
        return [found.name for found in iter_modules()]
    return [*vars(module), *(found.name for found in iter_modules(getattr(module, "__path__", [])))]


def check_tree(node: Any, path: str, supplied: Mapping[str, Iterable[str]]) -> Iterator[Problem]:
    """Check every object in a plain config, at any depth.

    Args:
        node: plain containers and scalars; UNKNOWN for what could not be resolved.
        path: key path of the node, "" for the top.
        supplied: by key path, the names of the arguments that the code adds there.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            yield from check_object(node, path, supplied.get(path, ()))
        for key, value in node.items():
            yield from check_tree(value, join(path, key), supplied)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from check_tree(value, f"{path}[{index}]", supplied)


def check_object(config: Mapping[str, Any], path: str, supplied: Iterable[str] = ()) -> Iterator[Problem]:
    """Check an object's `_target_` and arguments, but not the objects among its arguments."""
    target, partial = config["_target_"], config.get("_partial_", False)
    where = join(path, "_target_")
    if target is UNKNOWN:
        return
    if not isinstance(target, str):
        yield Problem(where, f"is {shown(target)}; required: the import path of a class or function")
        return
    try:
        factory = locate(target)
    except ValueError as error:
        yield Problem(where, f"is {target!r}: {error}")
        return
    if not callable(factory):
        yield Problem(where, f"is {target!r}; required: a class or function")
        return
    accepted = accepted_by(factory, target)
    if not isinstance(partial, bool) and partial is not UNKNOWN:
        yield Problem(join(path, "_partial_"), f"is {shown(partial)}; required: true or false")
    for name in supplied:
        if name in config:
            yield Problem(join(path, name), f"cannot be set: the code gives {name!r} to {target}")
    supplied = set(supplied)
    # A partial object gets its other arguments from code; without a word on which, none of them can be missed.
    all_given = "_args_" in config or (partial and not supplied)
    required = frozenset() if all_given else accepted.required - supplied
    arguments = {key: value for key, value in config.items() if key not in RESERVED and key not in supplied}
    types = {name: kind for name, kind in accepted.types.items() if name not in supplied}
    yield from check_mapping(arguments, Accepted(target, types, required, accepted.others), path, RESERVED)


def check_mapping(
    values: Mapping[str, Any], accepted: Accepted, path: str, further: Iterable[str] = ()
) -> Iterator[Problem]:
    """Check a mapping's keys and values; `further` are names that a misspelt key may have meant besides."""
    missing = accepted.required - set(values)
    for key in map(str, values):
        if key in accepted.types:
            yield from check_value(values[key], accepted.types[key], join(path, key))
        elif not accepted.others or get_close_matches(key, accepted.types, n=1, cutoff=_ALIKE):
            names = {*accepted.types, *(further if key.startswith("_") else ())}
            missing -= {closest(key, names)}  # one mistake, one message
            yield Problem(join(path, key), f"is unknown to {accepted.owner}{suggestion(key, names)}")
    for key in accepted.types:
        if key in missing:
            kind = describe(accepted.types[key])
            yield Problem(join(path, key), f"is missing; {accepted.owner} requires it: {kind}")


def check_value(value: Any, annotation: Any, path: str) -> Iterator[Problem]:
    """Check one value against an annotation, a mapping key by key."""
    if isinstance(value, dict) and "_target_" not in value:
        if is_typeddict(annotation):
            yield from check_mapping(value, accepted_keys(annotation, path), path)
            return
        if get_origin(annotation) in (dict, Mapping):
            for key, item in value.items():
                yield from check_value(item, get_args(annotation)[1], join(path, key))
            return
    if fits(_when_built(value), annotation):
        return
    required = f"required: {describe(annotation)}"
    if isinstance(value, dict) and (annotation is Built or Built in get_args(annotation)):
        near = closest("_target_", map(str, value))
        yield Problem(path, f"has no _target_{f', but {near!r}' if near else ''}; {required}")
    else:
        yield Problem(path, f"is {shown(value)}; {required}{meant(str(value), choices(annotation))}")


def _when_built(value: Any) -> Any:
    """Return a value with UNKNOWN for each object that would be built."""
    if isinstance(value, dict):
        return UNKNOWN if "_target_" in value else {key: _when_built(item) for key, item in value.items()}
    return [_when_built(item) for item in value] if isinstance(value, list) else value
