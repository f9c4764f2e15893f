"""Former names of options, config keys and commands, each refused in one line that names its successor."""

import sys
from collections.abc import Mapping, Sequence

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


def reject_renamed_options(command: str, argv: Sequence[str] | None) -> None:
    """Exit with code 2 and one line that names the successor where a former option of a command is given.

    Args:
        command: a key of RENAMED_OPTIONS.
        argv: the command's arguments; None for this process's own.
    """
    for word in sys.argv[1:] if argv is None else argv:
        option = word.partition("=")[0]
        if option in RENAMED_OPTIONS[command]:
            print(f"error: {option} has been renamed; use {RENAMED_OPTIONS[command][option]}", file=sys.stderr)
            raise SystemExit(BAD_INPUT)
