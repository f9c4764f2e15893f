"""What every command does with its words: `~` becomes the home folder; what is no use gives one line and code 2."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

from graysam.system.environment import with_home
from graysam.system.streams import secure_streams
from graysam.system.terminal import BAD_INPUT, one_line

Run = Callable[[Sequence[str] | None], int]

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
    "experiment/quickstart": "proposed",
}
RENAMED_COMMANDS: Mapping[str, str] = {
    "findings": "report --reproducibility-checks -o FILE.json",
    "workspace": "report --wandb-workspace ENTITY/PROJECT",
}


def command(name: str) -> Callable[[Run], Callable[..., int]]:
    """Decorate the `main` of the command `name`, from arguments (None: this process's own) to an exit code.

    A former option, and any ValueError or OSError, is printed to the standard error in one line; the code is then 2.
    In `--output=~/x`, which shells leave as it is, the home folder replaces `~`.
    What is printed never decides whether the command works, see `secure_streams`.
    """

    def decorate(run: Run) -> Callable[..., int]:
        @wraps(run)
        def main(argv: Sequence[str] | None = None) -> int:
            secure_streams()
            renamed = RENAMED_OPTIONS.get(name, {})
            try:
                words = [_in_home(word) for word in (sys.argv[1:] if argv is None else argv)]
                for option in [word.partition("=")[0] for word in words]:
                    if option in renamed:
                        raise ValueError(f"{option} has been renamed; use {renamed[option]}")
                if argv is None:
                    sys.argv[1:] = words  # Hydra reads them there
                return run(words)
            except (ValueError, OSError) as error:
                print(f"error: {one_line(error)}", file=sys.stderr)
                return BAD_INPUT

        return main

    return decorate


def _in_home(word: str) -> str:
    option, _, value = word.partition("=")
    return f"{option}={with_home(value)}" if option.startswith("--") and value[:2] in ("~", "~/") else word
