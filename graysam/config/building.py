"""Build the objects that a plain config names."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from graysam.config.messages import first_line
from graysam.config.targets import check_targets


def build(config: dict[str, Any], **arguments: Any) -> Any:
    """Build the object that a config's `_target_` names, with further arguments supplied by code.

    Raises:
        ValueError: the target does not exist or does not take these arguments; in one line.
    """
    supplied = {"": tuple(arguments)} if arguments else {}  # a partial target may lack arguments that nobody supplies
    errors = [f"{path} {text}" for path, text in check_targets(config, "", supplied)]
    if errors:
        raise ValueError(f"{config['_target_']}: {' | '.join(errors)}")
    try:
        factory = instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ValueError(first_line(error)) from error
    return factory if config.get("_partial_") else factory(**arguments)
