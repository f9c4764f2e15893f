"""Which metrics are logged under which names, and whether more of one is better."""

import re

TERMS = ("total", "bce", "dice", "iou")
EMBEDDING = "embedding"  # the student's distance from its teacher

LOSSES = r"loss(_bce|_dice|_iou)?"
LOGGED = re.compile(
    rf"val/({LOSSES}|embedding_error)|train/({LOSSES}|embedding_error)_epoch|val/(loss|dsc|nsd)_slice256/(macro|(modality|group)/.+)"
)


def metric_name(stage: str, term: str) -> str:
    """Return the name under which a loss term is logged."""
    if term == EMBEDDING:
        return f"{stage}/embedding_error"
    return f"{stage}/loss" if term == "total" else f"{stage}/loss_{term}"


def check_monitor(key: str, name: str, mode_key: str, mode: str) -> list[str]:
    """Return what is wrong with a metric that a setting watches, and with the direction that counts as better.

    Args:
        key, name: of the setting, and the metric that it names.
        mode_key, mode: of the setting beside it, and `min` or `max`.
    """
    if not LOGGED.fullmatch(name):
        return [
            f"{key} {name} is not logged; logged are val/loss, train/loss_epoch, val/dsc_slice256/macro, "
            "val/nsd_slice256/modality/<modality> and the like"
        ]
    better = "min" if "/loss" in name or "error" in name else "max"
    return [] if mode == better else [f"{key} {name} needs {mode_key}={better}; it is {mode}"]
