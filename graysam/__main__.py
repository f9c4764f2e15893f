"""Run a command by name: `graysam NAME ...`, which is the same as `python -m graysam.NAME ...`."""

import runpy
import sys

from graysam.system.command import RENAMED_COMMANDS
from graysam.system.streams import secure_streams
from graysam.system.terminal import BAD_INPUT, suggestion

COMMANDS = {
    "pack": "turn a folder of cases into shards for training",
    "train": "train, quantize and measure a model; -m runs a sweep",
    "predict": "segment images with boxes",
    "evaluate": "compare masks with ground truth: DSC and NSD",
    "export": "turn a checkpoint into a model that needs no torch",
    "benchmark": "measure times against the baselines",
    "report": "make tables, figures and one page of results",
    "check": "validate all config files",
    "probe": "measure how a model answers to changed prompts",
}


def main() -> int:
    """Run the command that the first argument names and return its exit code.

    The command's module is run as `python -m` runs it, so that a process that starts itself again (Lightning's ranks,
    DataLoader workers) finds the same command line.
    """
    secure_streams()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: graysam COMMAND ...\n")
        print("\n".join(f"  {command:10} {purpose}" for command, purpose in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
        if name in RENAMED_COMMANDS:
            hint = f"; it was renamed to graysam {RENAMED_COMMANDS[name]}"
        print(f"error: there is no command {name!r}{hint}", file=sys.stderr)
        return BAD_INPUT
    del sys.argv[1]
    runpy.run_module(f"graysam.{name}", run_name="__main__", alter_sys=True)
    return 0  # not reached by a command that exits itself


if __name__ == "__main__":
    sys.exit(main())
