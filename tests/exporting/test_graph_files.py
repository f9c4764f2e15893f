"""Graphs as files: what they weigh, and that layers in front of int8 keep float32 when the rest is bfloat16."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nncf", reason="an extra", exc_type=ImportError)

import openvino as ov
import openvino.opset13 as op

from graysam.exporting.graph_files import finest_layers, save_graphs

SIDE = 16
CHANNELS = 32
FINE = {"fine", "active"}


def graph_of(quantized: bool) -> ov.Model:
    """Return a convolution as fine as the image, a rectifier, int8 levels if asked for, and a strided convolution."""
    rng = np.random.default_rng(0)
    given = op.parameter([1, CHANNELS, SIDE, SIDE], np.float32)
    kernels = [op.constant(rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)) for _ in range(2)]
    fine = op.convolution(given, kernels[0], [1, 1], [1, 1], [1, 1], [1, 1], name="fine")
    between = op.relu(fine, name="active")
    if quantized:
        bounds = [op.constant(np.float32(bound)) for bound in (-50.0, 50.0, -50.0, 50.0)]
        between = op.fake_quantize(between, *bounds, levels=256, name="levels")
    return ov.Model([op.convolution(between, kernels[1], [2, 2], [1, 1], [1, 1], [1, 1], name="coarse")], [given])


def test_the_finest_layers_are_those_with_maps_of_the_images_size() -> None:
    assert finest_layers(graph_of(quantized=True)) == FINE | {"levels"}
    assert finest_layers(graph_of(quantized=False)) == frozenset()


def precisions(path: Path) -> dict[str, str]:
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    facts = [(node.get_friendly_name(), node.get_rt_info()) for node in compiled.get_runtime_model().get_ordered_ops()]
    return {name: info["runtimePrecision"].astype(str) for name, info in facts}


def test_written_graphs_keep_float32_as_fine_as_the_image_and_only_with_int8(tmp_path: Path) -> None:
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16, so everything is float32")
    graphs = {"quantized": graph_of(quantized=True), "plain": graph_of(quantized=False)}
    save_graphs(graphs, tmp_path, half_precision=True)
    assert precisions(tmp_path / "quantized.xml")["fine"] == "f32"
    assert precisions(tmp_path / "plain.xml")["fine"] == "bf16"


def test_half_precision_takes_half_the_bytes_and_gives_nearly_the_same(tmp_path: Path) -> None:
    given = np.random.default_rng(1).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    results, sizes = [], []
    graph = graph_of(quantized=True)
    for half in (False, True):
        folder = tmp_path / str(half)
        folder.mkdir()
        save_graphs({"graph": graph}, folder, half_precision=half)
        sizes.append((folder / "graph.bin").stat().st_size)
        compiled = ov.Core().compile_model(folder / "graph.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results.append(np.array(compiled(given)[0]))
    assert sizes[1] < 0.52 * sizes[0]
    assert np.linalg.norm(results[1] - results[0]) < 0.01 * np.linalg.norm(results[0])
