"""How an OpenVINO graph spends its time: operations a second, and seconds by type of layer and precision."""

import statistics
import time
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graysam.inference.openvino_core import has_bf16, open_core

if TYPE_CHECKING:
    import openvino

_RUNS = 20


def profile_encoder(graph: Path, threads: int, precision: str | None) -> dict[str, Any]:
    """Time an image encoder alone, warm.

    graph: an .xml with one static input; precision: an INFERENCE_PRECISION_HINT, or None for OpenVINO's own choice.
    Returns `seconds` (median), `runs`, `computed_in` (`f32` or `bf16`, for what is not int8), `gmac` (1e9
    multiplications with their addition, one image), `gops` (2 x gmac a second) and `layers`, the longest first: `type`,
    `precision`, `implementation`, `seconds` of one image. Counting layers slows the graph a little, so that their sum
    is not `seconds`.
    """
    core = open_core()
    model = core.read_model(graph)
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision if has_bf16(core) else "f32"
    images = np.random.default_rng(0).uniform(0, 1, list(model.input().shape)).astype(np.float32)
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    seconds = []
    for _ in range(3 + _RUNS):
        start = time.perf_counter()
        request.infer([images], share_inputs=True)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])
    gmac = macs(model) / 1e9
    return {
        "seconds": median,
        "runs": _RUNS,
        "computed_in": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        "gmac": gmac,
        "gops": 2 * gmac / median,
        "layers": _layers(core.compile_model(model, "CPU", {**settings, "PERF_COUNT": True}), images),
    }


def _layers(compiled: "openvino.CompiledModel", images: Any) -> list[dict[str, Any]]:
    request = compiled.create_infer_request()
    total: dict[tuple[str, str, str], float] = defaultdict(float)
    runs = 5
    for run in range(2 + runs):
        request.infer([images], share_inputs=True)
        for node in request.get_profiling_info() if run >= 2 else ():
            implementation, _, precision = node.exec_type.rpartition("_")
            total[node.node_type, precision, implementation] += node.real_time.total_seconds() / runs
    return [
        {"type": kind, "precision": precision, "implementation": implementation, "seconds": seconds}
        for (kind, precision, implementation), seconds in sorted(total.items(), key=lambda item: -item[1])
        if seconds > 0
    ]


def macs(model: "openvino.Model") -> int:
    """Count a graph's multiplications with an addition, in convolutions and matrix products; all shapes static.

    Normalization, activations, additions and resizing count nothing, as in `graysam.models.cost`.
    """
    return sum(_macs(node) for node in model.get_ordered_ops())


def _macs(node: "openvino.Node") -> int:
    kind = node.get_type_name()
    if kind == "MatMul":
        inputs = list(node.input(0).get_shape())
        inner = inputs[-2] if node.get_attributes()["transpose_a"] else inputs[-1]
        return prod(node.output(0).shape) * int(inner)
    if kind in ("Convolution", "GroupConvolution"):  # weights ([groups,] outputs, inputs, kernel...)
        weights = list(node.input(1).get_shape())
        return prod(node.output(0).shape) * prod(weights[1 if kind == "Convolution" else 2 :])
    if kind == "ConvolutionBackpropData":  # weights (inputs, outputs, kernel...)
        return prod(node.input(0).get_shape()) * prod(list(node.input(1).get_shape())[1:])
    return 0
