"""Building the objects that a plain config names."""

import inspect
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from graysam.config.composing import first_line


def build(config: dict[str, Any], **arguments: Any) -> Any:
    """Build the object that a config's `_target_` names, with further arguments given in code.

    Raises:
        ValueError: the target does not exist, or does not take these arguments.
    """
    try:
        factory = instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ValueError(f"config: {first_line(error)}") from error
    partial = bool(config.get("_partial_"))
    signature = inspect.signature(factory.func)
    try:
        (signature.bind_partial if partial else signature.bind)(*factory.args, **factory.keywords, **arguments)
    except TypeError as error:
        raise ValueError(f"config: {config['_target_']}: {error}") from error
    return factory if partial else factory(**arguments)


def build_all(configs: dict[str, Any]) -> list[Any]:
    """Build every entry of a group that holds several objects; an entry that is null is left out."""
    return [build(config) for config in configs.values() if config is not None]
