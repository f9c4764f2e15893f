"""Check that each object a config names can be called with the arguments that stand there; nothing is built."""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from pkgutil import iter_modules, resolve_name
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

from graysam.config.messages import format_value, suggestion

Error = tuple[str, str]  # key path of a mistake, and what is wrong there


class Target(Any):
    """Type of a mapping with `_target_`; an instance stands for the built object and fits every annotation."""


def check_targets(node: Any, path: str, supplied: Mapping[str, Collection[str]]) -> Iterator[Error]:
    """Check every object below a node of a plain config.

    Args:
        node: plain containers and scalars.
        path: key path of the node, "" for the top.
        supplied: by key path, the names of the arguments that code adds there.
    """
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from check_targets(value, f"{path}.{key}".lstrip("."), supplied)
    if isinstance(node, dict) and "_target_" in node:
        try:
            function = locate(node["_target_"])
        except ValueError as error:
            yield f"{path}._target_".lstrip("."), f"is {format_value(node['_target_'])}: {error}"
            return
        arguments = {key: value for key, value in node.items() if not re.fullmatch("_[a-z]+_", key)}
        missing_allowed = "_args_" in node or (bool(node.get("_partial_")) and path not in supplied)
        yield from check_call(function, node["_target_"], arguments, path, supplied.get(path, ()), missing_allowed)


def locate(target: Any) -> Any:
    """Import the class or function that a dotted path names.

    Raises:
        ValueError: there is none; with the nearest valid name.
    """
    try:
        found = resolve_name(target)
    except AttributeError as error:
        modules = [module.name for module in iter_modules(getattr(error.obj, "__path__", []))]
        raise ValueError(f"{error}{suggestion(str(error.name), [*dir(error.obj), *modules])}") from error
    except ImportError as error:
        raise ValueError(f"{error}{suggestion(str(error.name), [module.name for module in iter_modules()])}") from error
    except (TypeError, ValueError):
        found = None
    if not callable(found):
        raise ValueError("required: the import path of a class or function")
    return found


def check_call(
    function: Any,
    owner: str,
    arguments: Mapping[str, Any],
    path: str,
    supplied: Collection[str] = (),
    missing_allowed: bool = False,
) -> Iterator[Error]:
    """Check the names and types of the arguments of a call.

    Args:
        function: a class or function; a TypedDict is checked like a function with its keys as optional arguments.
        owner: its name in messages.
        arguments: plain values by name.
        path: key path of the arguments.
        supplied: names of further arguments.
        missing_allowed: whether required arguments may be missing.
    """
    try:
        signature = _signature(function)
    except ValueError:  # written in C, without a signature
        return
    parameters = signature.parameters
    for bind in (
        signature.bind_partial,
        *(() if missing_allowed else (signature.bind,)),
    ):  # first unknown, then missing
        try:
            bind(**arguments, **dict.fromkeys(supplied))
        except TypeError as error:
            name = str(error).split("'")[1]
            key = f"{path}.{name}".lstrip(".")
            if name in supplied:
                yield key, f"cannot be set: the code supplies it to {owner}"
            elif name in arguments:
                yield key, f"is unknown to {owner}{suggestion(name, parameters.keys() - supplied, key)}"
            else:
                yield key, f"is missing; {owner} requires it"
            return
    for name, value in arguments.items():
        if name in parameters:
            yield from _check_value(value, parameters[name].annotation, f"{path}.{name}".lstrip("."))


def _signature(function: Any) -> inspect.Signature:
    if is_typeddict(function):
        kind, hints = inspect.Parameter.KEYWORD_ONLY, get_type_hints(function).items()
        return inspect.Signature([inspect.Parameter(key, kind, default=None, annotation=hint) for key, hint in hints])
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, TypeError):  # an annotation with a name that only type checkers import
        return inspect.signature(function)


def _check_value(value: Any, annotation: Any, path: str) -> Iterator[Error]:
    """Check one plain value against an annotation, a mapping key by key."""
    members = _members(annotation)
    if isinstance(value, dict) and "_target_" not in value:
        for part in members:
            if is_typeddict(part):
                yield from check_call(part, path, value, path)
                return
            if get_origin(part) in (dict, Mapping):
                for key, item in value.items():
                    yield from _check_value(item, get_args(part)[1], f"{path}.{key}")
                return
    if not fits(value, annotation):
        required = re.sub(r"\b(?:[A-Za-z_]\w*\.)+", "", inspect.formatannotation(annotation))  # without modules
        required = re.sub(r"\bNone(Type)?\b", "null", required).replace(" | ", " or ")
        required = required.replace("Target", "mapping with _target_")
        valid = re.findall(r"'(.+?)'", required)
        wrong = [item for item in (value if isinstance(value, list) else [value]) if item not in valid]
        hint = suggestion(str(wrong[0]), valid) if wrong else ""
        yield path, f"is {format_value(value)}; required: {required}{hint}"


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a plain value, as YAML holds it, fits an annotation.

    A string fits a path, a list a tuple and an integer a float; but a boolean is not a number, and a string is not a
    sequence of strings. An annotation that cannot be evaluated is fitted by everything.
    """
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return True
    value = _built(value)
    readings = [value, tuple(value) if isinstance(value, list) else Path(value) if isinstance(value, str) else value]
    excluded: tuple[Any, ...] = (int, float) if isinstance(value, bool) else ()
    if isinstance(value, str):
        excluded = (Sequence, Iterable, Collection)
    members = [part for part in _members(annotation) if part not in excluded and get_origin(part) not in excluded]
    for reading, part in product(readings, members):
        with suppress(TypeCheckError):
            check_type(
                reading,
                part,
                forward_ref_policy=ForwardRefPolicy.IGNORE,
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
            return True
    return False


def _built(value: Any) -> Any:
    """Return a value with a stand-in for each object that would be built."""
    if isinstance(value, dict):
        return Target() if "_target_" in value else {key: _built(item) for key, item in value.items()}
    return [_built(item) for item in value] if isinstance(value, list) else value


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
