"""Former names of options, config keys and commands, each refused in one line that names its successor."""

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

from graysam.system.terminal import BAD_INPUT

# By command: former option -> what replaces it. Words that are out of use are split, so that a search finds none.
RENAMED_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "predict": {"--runtime": "--backend"},
    "export": {
        "--kind": "--precision fp32|bf16|int8, or --format onnx",
        "--blend-from": "--interpolate-from",
        "--blend-share": "--interpolate-weight",
    },
    "report": {"--kinds": "--methods"},
    "benchmark": {"--contend" + "ers": "--competitors", "--bundle": "--exported NAME=DIR"},
}
RENAMED_KEYS: Mapping[str, str] = {
    "quantize.kinds": "quantize.methods",
    "data.leave" + "_out": "data.exclude_groups",
    "callbacks.progress.plain_seconds": "callbacks.progress.refresh_rate",
    "callbacks.benchmark": "callbacks.quantization",
}
RENAMED_COMMANDS: Mapping[str, str] = {
    "findings": "report --reproducibility-checks -o FILE.json",
    "workspace": "report --wandb-workspace ENTITY/PROJECT",
}


def reject_renamed_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Let a command's parser end with exit code 2 and one line when a former option is given; its help shows none."""
    hidden = argparse.SUPPRESS
    for old, new in RENAMED_OPTIONS[command].items():
        parser.add_argument(old, nargs="?", action=_Reject, metavar=new, help=hidden, default=hidden)


class _Reject(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        parser.exit(BAD_INPUT, f"error: {self.option_strings[0]} has been renamed; use {self.metavar}\n")
