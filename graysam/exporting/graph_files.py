"""OpenVINO graphs as files: weights in half precision, and marks on layers that must keep float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from graysam.inference.openvino_core import disable_telemetry

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402

# OpenVINO's attribute for a layer that keeps float32 where the rest computes in lower precision.
PRECISE = {"name": "precise", "version": "0"}
SMALL = 64  # constants of so many elements or fewer are not converted
_FLOAT16_LARGEST = float(np.finfo(np.float16).max)


def save_graphs(graphs: Mapping[str, ov.Model], folder: Path, *, half_precision: bool) -> None:
    """Write graphs into a folder that exists, one `.xml` and one `.bin` each.

    Where a graph has int8 layers, those with maps as fine as the image are marked to be computed in float32: they are
    not in int8 for the sake of accuracy, and in bfloat16 they would cause most of the error that is left.

    Args:
        graphs: by the files' stem.
        folder: it exists.
        half_precision: whether weights are stored as float16.
    """
    for name, graph in graphs.items():
        path = folder / f"{name}.xml"
        written = graph
        if half_precision:
            written = graph.clone()
            _halve_constants(written)
        ov.save_model(written, path, compress_to_fp16=half_precision)
        _mark_float32(path, finest_layers(graph))


def finest_layers(graph: ov.Model) -> frozenset[str]:
    """Return the friendly names of the nodes with maps as fine as the image; none where nothing is quantized."""
    nodes = graph.get_ordered_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return frozenset()
    return frozenset(node.get_friendly_name() for node in nodes if is_as_fine_as_the_image(node, graph))


def is_as_fine_as_the_image(node: Any, graph: ov.Model) -> bool:
    """Return whether a node's maps have the height and width of the graph's one input, an image (1,C,H,W)."""
    if node.get_type_name() in ("Constant", "Parameter", "Result"):
        return False
    shape = node.get_output_partial_shape(0)
    return bool(shape.is_static and len(shape) == 4 and shape[2:] == graph.input(0).get_partial_shape()[2:])


def _halve_constants(graph: ov.Model) -> None:
    """Store large float32 constants as float16; OpenVINO itself leaves those of quantized graphs as they are."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        data = node.data
        if data.size <= SMALL or np.abs(data).max() > _FLOAT16_LARGEST:
            continue
        readers = list(node.output(0).get_target_inputs())
        if any(reader.get_node().get_type_name() == "FakeQuantize" for reader in readers):
            continue
        name = node.get_friendly_name()
        half = op.convert(op.constant(data.astype(np.float16)), np.float32)
        node.set_friendly_name(f"{name}/float32")
        half.set_friendly_name(name)
        for reader in readers:
            reader.replace_source_output(half.output(0))
    graph.validate_nodes_and_infer_types()


def _mark_float32(path: Path, names: frozenset[str]) -> None:
    """Mark layers of a written graph; OpenVINO's Python interface cannot set the attribute."""
    if not names:
        return
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") not in names:
            continue
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            places = [i for i, child in enumerate(layer) if child.tag in ("input", "output")]
            layer.insert(min(places), info)
        info.append(ElementTree.Element("attribute", PRECISE))
    tree.write(path, encoding="utf-8", xml_declaration=True)
