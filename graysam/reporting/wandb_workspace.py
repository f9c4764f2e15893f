"""Set up a W&B workspace for graysam's runs: `python -m graysam.reporting.wandb_workspace ENTITY/PROJECT`.

The workspace is a saved view of a project with panels for every modality's DSC and NSD, the losses, the pictures and
the benchmark. It needs a W&B account; nothing is uploaded but the view.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from graysam.system.extras import require

require("dashboards")

import wandb  # noqa: E402
import wandb_workspaces.reports.v2 as panels  # noqa: E402
import wandb_workspaces.workspaces as workspaces  # noqa: E402

from graysam.system.terminal import BAD_INPUT, one_line  # noqa: E402

MODALITIES = ("CT", "MR", "PET", "US", "X-Ray", "Dermoscopy", "Endoscopy", "Fundus", "Microscopy")  # the challenge's
KINDS = ("none", "dynamic_qint8", "torchao_int8")
FIGURES = ("dsc", "nsd", "encoder_ms", "decoder_ms", "image_ms", "size_mb")
TERMS = ("", "_bce", "_dice", "_iou")


def define_workspace(
    entity: str, project: str, modalities: Sequence[str], kinds: Sequence[str]
) -> "workspaces.Workspace":
    """Return the workspace's definition; nothing is sent.

    Args:
        entity: W&B user or team.
        project: W&B project.
        modalities: as they stand in the case files' names; each gets its panels.
        kinds: of quantization, as `quantize.kinds` has them; each gets a bar.
    """
    scores: dict[str, list[Any]] = {
        title: [
            panels.LinePlot(title=f"{title}, {name}", y=[f"val/{title.lower()}_slice256/{place}"], range_y=(0, 1))
            for name, place in (("macro average", "macro"), *((m, f"modality/{m}") for m in modalities))
        ]
        for title in ("DSC", "NSD")
    }
    losses: list[Any] = [
        panels.LinePlot(title=f"loss{term.replace('_', ', ')}", y=[f"train/loss{term}_epoch", f"val/loss{term}"])
        for term in TERMS
    ]
    rate = panels.LinePlot(title="learning rate", metric_regex="lr-.*")
    pictures: list[Any] = [
        panels.MediaBrowser(
            title=f"{m}: {end}", media_keys=[f"images/validation/{end}/{m}"], gallery_axis="step", num_columns=1
        )
        for m in modalities
        for end in ("worst", "best")
    ]
    tables: list[Any] = [
        panels.WeavePanelSummaryTable(table_name=f"tables/{name}") for name in ("validation", "trained")
    ]
    benchmark = [
        panels.BarPlot(title=figure, metrics=[f"benchmark/{kind}/{figure}" for kind in kinds]) for figure in FIGURES
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="graysam",
        sections=[
            workspaces.Section(name="DSC", panels=scores["DSC"], is_open=True),
            workspaces.Section(name="NSD", panels=scores["NSD"], is_open=True),
            workspaces.Section(name="Losses", panels=[*losses, rate]),
            workspaces.Section(name="Overlays", panels=pictures),
            workspaces.Section(name="Tables", panels=tables),
            workspaces.Section(
                name="Benchmark", panels=[panels.WeavePanelSummaryTable(table_name="tables/benchmark"), *benchmark]
            ),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Define the workspace and save it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m graysam.reporting.wandb_workspace", description="Set up W&B")
    parser.add_argument("where", metavar="ENTITY/PROJECT", help="W&B user or team, and project")
    parser.add_argument("--modalities", nargs="+", default=MODALITIES, help="default: the challenge's nine")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help=f"of quantization (default: {' '.join(KINDS)})")
    given = parser.parse_args(arguments)
    entity, _, project = given.where.partition("/")
    if not entity or not project or "/" in project:
        print(f"error: {given.where!r} is no ENTITY/PROJECT", file=sys.stderr)
        return BAD_INPUT
    workspace = define_workspace(entity, project, given.modalities, given.kinds)
    try:
        workspace.save()
    except (wandb.Error, ValueError) as error:
        print(f"error: W&B did not take the workspace: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(workspace.url)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
