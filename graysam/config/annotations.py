"""Whether a plain value of a config fits an annotation, and how a message says what the annotation asks for."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NewType, Union, get_args, get_origin, is_typeddict

from typeguard import (
    CollectionCheckStrategy,
    ForwardRefPolicy,
    TypeCheckError,
    TypeCheckMemo,
    check_type,
    check_type_internal,
    checker_lookup_functions,
)

_LISTS = (list, tuple, Sequence, Iterable, Collection)
_PATHS = (Path, os.PathLike)
_FEW = 4  # literals that are joined by "or"
_OBJECT = "object with _target_"
_WRITTEN = {NoneType: "null", bool: "true or false", Any: "anything", dict: "mapping", Mapping: "mapping"}


class Built:
    """What a mapping with a `_target_` becomes; no plain value is one."""


class Unknown(Any):
    """Stands for an object that is built later, or a value that could not be resolved; it fits every annotation."""


UNKNOWN = Unknown()


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value (scalars, lists, mappings, UNKNOWN) fits an annotation as YAML would be read.

    A whole number fits a float, a string a path and a list a tuple; but true is no number and a string no list of
    strings. What typeguard cannot check, such as a name that only a type checker sees, fits.
    """
    checker_lookup_functions.insert(0, _as_yaml)
    try:
        check_type(
            value,
            annotation,
            forward_ref_policy=ForwardRefPolicy.IGNORE,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError:
        return False
    finally:
        checker_lookup_functions.remove(_as_yaml)
    return True


def _as_yaml(origin: Any, args: tuple[Any, ...], extras: tuple[Any, ...]) -> Callable[..., None] | None:
    """Return the check of an annotation that YAML's plain values meet in a way of their own."""
    if origin in (int, float):
        return _check_number
    if origin in _PATHS:
        return _check_path
    return _check_list if origin in _LISTS else None


def _check_number(value: Any, origin: Any, args: tuple[Any, ...], memo: TypeCheckMemo) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, origin)):
        raise TypeCheckError(f"is no {origin.__name__}")


def _check_path(value: Any, origin: Any, args: tuple[Any, ...], memo: TypeCheckMemo) -> None:
    if not isinstance(value, str):
        raise TypeCheckError("is no path")


def _check_list(value: Any, origin: Any, args: tuple[Any, ...], memo: TypeCheckMemo) -> None:
    if not isinstance(value, list):
        raise TypeCheckError("is no list")
    each = args if origin is tuple and Ellipsis not in args and args else args[:1] * len(value)
    if args and len(each) != len(value):
        raise TypeCheckError(f"has {len(value)} items")
    for item, annotation in zip(value, each, strict=False):
        check_type_internal(item, annotation, memo)


def choices(annotation: Any) -> list[str]:
    """Return the strings that an annotation enumerates, in a union of literals too."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    if get_origin(annotation) in (Union, UnionType):
        return [value for part in get_args(annotation) for value in choices(part)]
    return []


def describe(annotation: Any) -> str:
    """Return what an annotation asks for in words and YAML's terms, e.g. `int or null`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, NewType):
        return describe(annotation.__supertype__)
    if origin is Literal:
        names = list(dict.fromkeys(map(str, args)))  # some name a number and its digits
        return " or ".join(map(repr, args)) if len(names) <= _FEW else f"one of {', '.join(names)}"
    if origin in (Union, UnionType):
        literals = [value for part in args if get_origin(part) is Literal for value in get_args(part)]
        others = [part for part in args if get_origin(part) is not Literal]
        parts = list(dict.fromkeys(map(describe, ([Literal[tuple(literals)]] if literals else []) + others)))
        if Built not in args and set(parts) - {_OBJECT, "null"}:  # nobody writes a tensor where a number will do
            parts = [part for part in parts if part != _OBJECT]
        return " or ".join(parts)
    if origin is tuple and args and Ellipsis not in args:
        return f"list of {len(args)}: {', '.join(describe(part) for part in args)}"
    if (origin or annotation) in _LISTS:
        return f"list of {describe(args[0])}" if args else "list"
    if origin is Callable:
        return "object with _target_ and _partial_: true"
    if (origin or annotation) in _WRITTEN:
        return _WRITTEN[origin or annotation]
    if is_typeddict(annotation):
        return f"mapping of {', '.join(annotation.__annotations__)}" if annotation.__annotations__ else "{}"
    if annotation in _PATHS:
        return "path"
    if annotation in (int, float, str):
        return annotation.__name__
    return _OBJECT
