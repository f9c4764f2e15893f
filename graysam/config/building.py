"""Building the objects that a plain config names."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from graysam.config.messages import first_line
from graysam.config.signatures import check_tree


def build(config: dict[str, Any], **arguments: Any) -> Any:
    """Build the object that a config's `_target_` names, with further arguments given in code.

    Raises:
        ValueError: the target does not exist, or does not take these arguments: all that is wrong, in one line.
    """
    if "_target_" not in config:
        raise ValueError(f"config: no _target_ among {', '.join(config) or 'no keys'}; required: what to build")
    problems = [f"{path} {text}" for path, text in check_tree(config, "", {"": arguments})]
    if problems:
        raise ValueError(f"config: {config['_target_']}: {' | '.join(problems)}")
    try:
        factory = instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ValueError(f"config: {first_line(error)}") from error
    return factory if config.get("_partial_") else factory(**arguments)


def build_all(configs: dict[str, Any]) -> list[Any]:
    """Build every entry of a group that holds several objects; an entry that is null is left out."""
    return [build(config) for config in configs.values() if config is not None]
