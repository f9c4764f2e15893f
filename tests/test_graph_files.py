"""Graphs as files: what they weigh, and that layers in front of int8 keep float32 when the rest is bfloat16."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nncf", reason="an extra", exc_type=ImportError)

import openvino as ov
import openvino.opset13 as op

from graysam.runtime.graph_files import layers_before_int8, save_graphs

SIDE = 64


def quantized_after_one_layer() -> ov.Model:
    rng = np.random.default_rng(0)
    given = op.parameter([1, SIDE], np.float32)
    weights = [rng.normal(size=(SIDE, SIDE)).astype(np.float32) for _ in range(2)]
    early = op.matmul(given, op.constant(weights[0]), False, True, name="early")
    bounds = [op.constant(np.float32(bound)) for bound in (-30.0, 30.0, -30.0, 30.0)]
    levels = op.fake_quantize(op.relu(early, name="active"), *bounds, levels=256)
    return ov.Model([op.matmul(levels, op.constant(weights[1]), False, True, name="late")], [given])


def plain() -> ov.Model:
    given = op.parameter([1, SIDE], np.float32)
    kernel = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    return ov.Model([op.matmul(given, op.constant(kernel), False, True, name="early")], [given])


def test_layers_before_int8_are_those_its_input_comes_from() -> None:
    assert layers_before_int8(quantized_after_one_layer()) == {"early", "active"}
    assert layers_before_int8(plain()) == frozenset()


def precisions(path: Path) -> dict[str, str]:
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    facts = [(node.get_friendly_name(), node.get_rt_info()) for node in compiled.get_runtime_model().get_ordered_ops()]
    return {name: info["runtimePrecision"].astype(str) for name, info in facts}


def test_written_graphs_keep_float32_in_front_of_int8_and_only_there(tmp_path: Path) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16, so everything is float32")
    save_graphs({"quantized": quantized_after_one_layer(), "plain": plain()}, tmp_path, half_precision=True)
    assert precisions(tmp_path / "quantized.xml")["early"] == "f32"
    assert precisions(tmp_path / "plain.xml")["early"] == "bf16"


def test_half_precision_takes_half_the_bytes_and_gives_nearly_the_same(tmp_path: Path) -> None:
    given = np.random.default_rng(1).normal(size=(1, SIDE)).astype(np.float32)
    results, sizes = [], []
    graph = quantized_after_one_layer()
    for half in (False, True):
        folder = tmp_path / str(half)
        folder.mkdir()
        save_graphs({"graph": graph}, folder, half_precision=half)
        sizes.append((folder / "graph.bin").stat().st_size)
        compiled = ov.Core().compile_model(folder / "graph.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results.append(np.array(compiled(given)[0]))
    assert sizes[1] < 0.52 * sizes[0]
    assert np.linalg.norm(results[1] - results[0]) < 0.01 * np.linalg.norm(results[0])
