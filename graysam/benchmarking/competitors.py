"""The benchmark's competitors, and the exported models that they run: given, exported earlier, or exported now."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graysam.benchmarking.harness import Worker
from graysam.imaging.presets import scheme_to_dict
from graysam.inference.exported_model import is_exported, write_exported
from graysam.inference.locating import exported_path
from graysam.reporting.speed import BASELINE
from graysam.system.extras import require

PLAIN = "plain"  # graphs as converted, for one box


@dataclass(frozen=True)
class Competitor:
    """A row of the tables.

    Attributes:
        name: of options and results.
        title: in tables.
        engine: what runs it: `segmenters.open_<engine>`.
        model: `lite_medsam` or `l0` where it runs an exported model.
        precision: of that model, or `plain`.
    """

    name: str
    title: str
    engine: str
    model: str | None = None
    precision: str = ""


COMPETITORS: Mapping[str, Competitor] = {
    competitor.name: competitor
    for competitor in (
        Competitor(BASELINE, "LiteMedSAM (torch)", "script"),
        Competitor("lite_int8", "graysam lite_medsam int8", "predictor", "lite_medsam", "int8"),
        Competitor("l0_fp32", "graysam L0 fp32", "predictor", "l0", "fp32"),
        Competitor("l0_bf16", "graysam L0 bf16", "predictor", "l0", "bf16"),
        Competitor("l0_int8", "graysam L0 int8", "predictor", "l0", "int8"),
        Competitor("daft", "DAFT's way (L0)", "one_box", "l0", PLAIN),
    )
}


def choose_competitors(names: Iterable[str], l0: str | None, exported: Mapping[str, Path]) -> list[Competitor]:
    """Return the named competitors in the tables' order; no names take all that can run.

    Args:
        names: keys of COMPETITORS.
        l0: weight file of the L0 rows; None without one.
        exported: folders of exported models given for single rows.

    Raises:
        ValueError: unknown names, a folder for one that runs no exported model, or L0 rows without weights.
    """
    wanted = list(names)
    if unknown := [name for name in (*wanted, *exported) if name not in COMPETITORS]:
        raise ValueError(f"unknown competitors: {', '.join(unknown)}; available are {', '.join(COMPETITORS)}")
    if superfluous := [name for name in exported if COMPETITORS[name].model is None]:
        raise ValueError(f"{superfluous[0]} runs no exported model; leave out --exported {superfluous[0]}=...")
    needs_l0 = {one.name for one in COMPETITORS.values() if one.model == "l0" and l0 is None} - exported.keys()
    if lacking := [name for name in wanted if name in needs_l0]:
        raise ValueError(f"{', '.join(lacking)} need the weights of an EfficientViT-SAM-L0; give --l0 FILE")
    return [one for one in COMPETITORS.values() if (one.name in wanted if wanted else one.name not in needs_l0)]


def prepare(competitor: Competitor, l0: str | None, channels: str | None, threads: int) -> Path | None:
    """Return the folder of the exported model that a competitor runs, None for one that runs none.

    A model that is not exported yet is exported by a worker into the user's cache; that needs torch and takes minutes.

    Args:
        competitor: one of COMPETITORS.
        l0: weight file of the L0 rows.
        channels: scheme of that file where it does not name it.
        threads: CPU threads of the export.

    Raises:
        ValueError: the model's file does not exist.
        WorkerError: the model could not be exported.
    """
    if competitor.model is None:
        return None
    model, chosen = (str(l0), channels) if competitor.model == "l0" else (competitor.model, None)
    path = exported_path(model, competitor.precision, chosen)
    if not is_exported(path):
        print(f"exporting {model} as {competitor.precision} into {path}", file=sys.stderr, flush=True)
        with Worker(f"{__name__}:Exporter", threads=threads, show_stderr=True) as worker:
            worker.ask("export", model=model, precision=competitor.precision, channels=chosen, path=str(path))
    return path


class Exporter:
    """In the worker: exports models with torch, which stays out of the benchmark's own process."""

    def __init__(self, threads: int) -> None:
        for extra in ("train", "quantize", "demo"):
            require(extra)

    def export(self, model: str, precision: str, channels: str | None, path: str) -> dict[str, Any]:
        """Export a model; `plain` writes the graphs as converted, for one box, as DAFT ran them."""
        if precision != PLAIN:
            from graysam.exporting.pipeline import export_model

            export_model(model, Path(path), precision=precision, channels=channels)
            return {}
        from graysam.exporting.conversion import convert_plain
        from graysam.exporting.graph_files import save_graphs
        from graysam.exporting.torch_backend import open_with_scheme

        found, scheme = open_with_scheme(model, channels)
        graphs = convert_plain(found.model, found.size)
        description = {
            "name": Path(model).stem,
            "kind": "fp32",
            "precision": None,  # OpenVINO's own choice
            "size": found.size,
            "channels": scheme_to_dict(scheme),
        }
        write_exported(path, description=description, write_graphs=partial(save_graphs, graphs, half_precision=False))
        return {}
