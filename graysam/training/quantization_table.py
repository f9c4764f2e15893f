"""A benchmark report as text, as a table for loggers, and as scalars."""

from collections.abc import Mapping
from typing import Any

from graysam.benchmarking.method_timing import MEASURES
from graysam.training.scores import MACRO, comparison_table

PRINTED = (
    "kind",
    "DSC / NSD %",
    "encoder ms",
    "decoder ms, 1 box",
    "image ms",
    "MB",
    "encoder layers",
    "head layers",
    "parameters",
    "MACs",
)
SPREADS = tuple(f"{measure}{suffix}" for measure in MEASURES for suffix in ("", "_min", "_max"))
LOGGED = (
    "kind",
    "dsc",
    "nsd",
    *SPREADS,
    "size_mb",
    "quantized_encoder_layers",
    "quantized_head_layers",
    "quantized_parameters_percent",
    "quantized_macs_percent",
    "why_unavailable",
)


def _in_order(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the kinds as they were asked for; JSON has sorted them."""
    return [(name, report["kinds"][name]) for name in report["settings"]["kinds"]]


def _available(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: kind for name, kind in _in_order(report) if kind["available"]}


def _percent(parts: Mapping[str, tuple[int, int]]) -> float:
    return 100 * sum(hit for hit, _ in parts.values()) / sum(total for _, total in parts.values())


def scalars(report: Mapping[str, Any]) -> dict[str, float]:
    """Return `benchmark/<kind>/<dsc|nsd|encoder_ms|decoder_ms|image_ms|size_mb>`; DSC and NSD in [0,1]."""
    found: dict[str, float] = {}
    for name, kind in _available(report).items():
        values = {metric: kind["scores"][MACRO][metric] for metric in ("dsc", "nsd")}
        values |= {measure: kind[measure]["median"] for measure in MEASURES} | {"size_mb": kind["size_mb"]}
        found |= {f"benchmark/{name}/{metric}": float(value) for metric, value in values.items()}
    return found


def rows(report: Mapping[str, Any]) -> list[list[Any]]:
    """Return one row a kind in the order of LOGGED; DSC and NSD in [0,1], None where a kind was not available."""
    table = []
    for name, kind in _in_order(report):
        if not kind["available"]:
            table.append([name, *[None] * (len(LOGGED) - 2), kind["reason"]])
            continue
        macro, quantized = kind["scores"][MACRO], kind["quantized"]
        times = [kind[measure][key] for measure in MEASURES for key in ("median", "min", "max")]
        layers = ["{}/{}".format(*quantized["layers"][part]) for part in ("image_encoder", "heads")]
        percents = [_percent(quantized[what]) for what in ("parameters", "macs")]
        table.append([name, macro["dsc"], macro["nsd"], *times, kind["size_mb"], *layers, *percents, ""])
    return table


def _printed_row(name: str, kind: Mapping[str, Any]) -> list[str]:
    macro, quantized = kind["scores"][MACRO], kind["quantized"]
    times = [kind[measure] for measure in MEASURES]
    return [
        name,
        f"{100 * macro['dsc']:.2f} / {100 * macro['nsd']:.2f}",
        *[f"{time['median']:.1f} ({time['min']:.1f}-{time['max']:.1f})" for time in times],
        f"{kind['size_mb']:.1f}",
        *["{} of {}".format(*quantized["layers"][part]) for part in ("image_encoder", "heads")],
        *[f"{_percent(quantized[what]):.1f} %" for what in ("parameters", "macs")],
    ]


def text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal: the kinds side by side, then their scores per modality."""
    available = _available(report)
    lines = [
        f"{report['checkpoint']} in several kinds. DSC and NSD: {report['images']} images with {report['objects']} "
        f"boxes, slice-wise, mean over modalities. Times: median (min-max), threads={report['threads']}, "
        f"{report['machine']['cpu']}, torch {report['machine']['torch']}. Layers, parameters, MACs: really quantized."
    ]
    if available:
        cells = [list(PRINTED), *[_printed_row(name, kind) for name, kind in available.items()]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        lines += ["", comparison_table({name: kind["scores"] for name, kind in available.items()})]
    lines += [f"{name} is unavailable: {kind['reason']}" for name, kind in _in_order(report) if not kind["available"]]
    return "\n".join(lines)
