"""Set up a W&B workspace for graysam's runs: `graysam report --wandb-workspace ENTITY/PROJECT`.

The workspace is a saved view of a project with panels for every modality's DSC and NSD, the losses, the pictures and
the quantization methods. It needs a W&B account and the extra `dashboards`; only the view is uploaded.
"""

from collections.abc import Sequence
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as panels
from wandb_workspaces import workspaces

from graysam.system.terminal import one_line

MODALITIES = ("CT", "MR", "PET", "US", "X-Ray", "Dermoscopy", "Endoscopy", "Fundus", "Microscopy")  # the challenge's
METHODS = ("none", "dynamic_qint8", "torchao_int8", "openvino_bf16", "openvino_int8", "onnxruntime_dynamic")


def define_workspace(entity: str, project: str, modalities: Sequence[str]) -> "workspaces.Workspace":
    """Define the workspace of a user's or team's project, without sending it; each modality gets its panels."""
    places = {"macro average": "macro"} | {m: f"modality/{m}" for m in modalities}
    sections: dict[str, list[Any]] = {}
    for metric in ("DSC", "NSD"):
        sections[metric] = [
            panels.LinePlot(title=f"{metric}, {name}", y=[f"val/{metric.lower()}_slice256/{place}"], range_y=(0, 1))
            for name, place in places.items()
        ]
    sections["Losses"] = [
        panels.LinePlot(title=f"loss{term.replace('_', ', ')}", y=[f"train/loss{term}_epoch", f"val/loss{term}"])
        for term in ("", "_bce", "_dice", "_iou")
    ]
    sections["Losses"].append(panels.LinePlot(title="learning rate", metric_regex="lr-.*"))
    keys = {f"{m}: {end}": f"images/validation/{end}/{m}" for m in modalities for end in ("worst", "best")}
    sections["Overlays"] = [
        panels.MediaBrowser(title=title, media_keys=[key], gallery_axis="step", num_columns=1)
        for title, key in keys.items()
    ]
    tables = [
        panels.WeavePanelSummaryTable(table_name=f"tables/{t}") for t in ("validation", "trained", "quantization")
    ]
    sections["Tables"] = tables[:2]
    figures = ("dsc", "nsd", "encoder_ms", "decoder_ms", "image_ms", "size_mb")
    bars = [panels.BarPlot(title=f, metrics=[f"quantization/{method}/{f}" for method in METHODS]) for f in figures]
    sections["Quantization"] = [tables[2], *bars]
    made = [workspaces.Section(name=n, panels=p, is_open=n in ("DSC", "NSD")) for n, p in sections.items()]
    return workspaces.Workspace(entity=entity, project=project, name="graysam", sections=made)


def save_workspace(where: str, modalities: Sequence[str] = ()) -> str:
    """Save the workspace of `ENTITY/PROJECT` with these modalities, or the challenge's nine, and return its URL.

    Raises:
        ValueError: another form of `where`, or W&B refuses.
    """
    entity, _, project = where.partition("/")
    if not entity or not project or "/" in project:
        raise ValueError(f"--wandb-workspace {where}: required: ENTITY/PROJECT")
    workspace = define_workspace(entity, project, modalities or MODALITIES)
    try:
        workspace.save()
    except (wandb.Error, ValueError) as error:
        raise ValueError(f"W&B refused the workspace: {one_line(error)}") from None
    return str(workspace.url)
