"""Check that the objects a config names can be called with the arguments that stand there, and build them."""

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from textwrap import shorten
from types import UnionType
from typing import Any, Union, get_args, get_origin, is_typeddict

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

from graysam.config.composing import first_line, key_suggestion
from graysam.system.terminal import one_line, suggestion


class Target(Any):
    """Type of a mapping with `_target_`; an instance stands for the built object and fits every annotation."""


def build(config: dict[str, Any], **arguments: Any) -> Any:
    """Build the object that a checked config's `_target_` names, with further arguments supplied by code.

    Raises:
        ValueError: an object within it cannot be built; in one line.
    """
    try:
        factory = instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ValueError(first_line(error)) from error
    return factory if config.get("_partial_") else factory(**arguments)


def check_targets(node: Any, path: str, supplied: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield the errors of every object below a node of a plain config, one line each; nothing is built.

    Args:
        node: plain containers and scalars.
        path: key path of the node, "" for the top.
        supplied: by key path, the names of the arguments that code adds there.
    """
    if isinstance(node, dict) and "_target_" in node:
        yield from _check_call(node, path, supplied.get(path))
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from check_targets(value, f"{path}.{key}".lstrip("."), supplied)


def _check_call(node: dict[str, Any], path: str, supplied: Collection[str] | None) -> Iterator[str]:
    """Yield what is wrong with a target's name, and with the names and types of its arguments."""
    owner = node["_target_"]
    arguments = {key: value for key, value in node.items() if not re.fullmatch("_[a-z]+_", key)}
    try:
        signature = _signature(resolve_name(owner))
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        near = suggestion(str(error.name), dir(error.obj)) if isinstance(error, AttributeError) else ""
        yield f"{path}._target_ is {owner!r}: {error}{near}"
        return
    parameters = signature.parameters
    binds = [signature.bind_partial]  # first without required arguments, so that a misspelt one is not called missing
    if supplied is not None or not node.get("_partial_"):
        binds.append(signature.bind)
    for bind in binds:
        try:
            bind(**arguments, **dict.fromkeys(supplied or ()))
        except TypeError as error:
            name = str(error).split("'")[1]
            valid = parameters.keys() - set(supplied or ())
            near = key_suggestion(f"{path}.{name}", valid) if name in arguments else ""
            yield f"{path or 'config'}: {str(error).rpartition('() ')[2]} of {owner}{near}"
            return
    for name in [name for name in arguments if name in parameters]:
        yield from _check_value(arguments[name], parameters[name].annotation, f"{path}.{name}".lstrip("."))


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError):  # an annotation with a name that only type checkers import
        return inspect.signature(function)
    except ValueError:  # written in C
        return inspect.signature(lambda **_: None)


def _check_value(value: Any, annotation: Any, path: str) -> Iterator[str]:
    """Yield what is wrong with a value as YAML holds it, where a list may stand for a tuple."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):  # a string could not be evaluated
        return
    built = _built(value)
    if isinstance(value, bool | str):  # typing counts True as a number, and a text as a sequence of texts
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        unwanted = (int, float) if isinstance(value, bool) else (Sequence, Iterable, Collection)
        fitting = tuple(one for one in members if one not in unwanted and get_origin(one) not in unwanted)
        if not fitting:
            yield f"{path} is {value!r}; required: {inspect.formatannotation(annotation)}"
            return
        annotation = Union[fitting]  # noqa: UP007
    reasons = []
    for reading in (built, tuple(built)) if isinstance(built, list) else (built,):
        try:
            check_type(
                reading,
                annotation,
                forward_ref_policy=ForwardRefPolicy.IGNORE,
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
            return
        except TypeCheckError as error:
            reasons.append(re.sub(r"\b(?:[A-Za-z_]\w*\.)+", "", one_line(error)))  # classes without their modules
    valid = re.findall(r"'(\w+)'", reasons[0])  # of a Literal
    valid += [key for part in (annotation, *get_args(annotation)) if is_typeddict(part) for key in part.__annotations__]
    wrong = [str(item) for item in (value if isinstance(value, list | dict) else [value]) if item not in valid]
    yield f"{path} is {shorten(repr(value), 80)}: {reasons[0]}{suggestion(wrong[0], valid) if wrong else ''}"


def _built(value: Any) -> Any:
    """Return a value with a stand-in for each object that would be built."""
    if isinstance(value, dict):
        return Target() if "_target_" in value else {key: _built(item) for key, item in value.items()}
    return [_built(item) for item in value] if isinstance(value, list) else value
