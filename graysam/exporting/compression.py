"""Store what int8 leaves in float with 8 bits a number: the exported model's files are half as large.

OpenVINO turns the codes back into numbers when it compiles or imports a graph, and computes as before: layers that are
not quantized keep their precision, only their weights are rounded. Small constants stay in float16; they would save
nothing, and each costs time at every start.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.exporting.conversion import save_graphs
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.inference.openvino_core import disable_telemetry, open_core

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402

# Constants with more numbers are compressed, by the operation that reads them. OpenVINO compiles a kernel for each
# convolution's weights, which takes a millisecond at every start; matrix products read codes as they are.
SMALL = {"Convolution": 2**17, "MatMul": 2**13, "Add": 2**16, "ScaledDotProductAttention": 2**13}


def compress_exported(exported: ExportedModel, folder: Path) -> ExportedModel:
    """Write an exported int8 model with compressed constants.

    Args:
        exported: for OpenVINO, weights in float16, left as it is.
        folder: of the compressed model; an exported model that is there is replaced.

    Returns:
        The compressed model; its description says `"weights": "int8"`.
    """
    core = open_core()
    core.set_property({"ENABLE_MMAP": False})  # the files may be replaced
    graphs = {stem: core.read_model(path) for stem, path in exported.graphs.items()}
    for stem, graph in graphs.items():
        compress_constants(graph, matrices=stem != "encoder")
    return write_exported(
        folder,
        description={**exported.description, "weights": "int8"},
        write_graphs=lambda target: save_graphs(graphs, target, half_precision=True),
    )


def compress_constants(graph: ov.Model, *, matrices: bool = True) -> None:
    """Compress a graph's large float16 constants.

    - Weights of layers become int8 codes with a scale for each output channel.
    - Attention biases by relative position have few different values per head: an index into these is exact.
    - Others, such as position encodings, become int8 codes with a scale for each channel.

    Args:
        graph: as `save_graphs` writes it, changed in place.
        matrices: whether matrix products are included. Those of an encoder are left: for 1.6 MB, LiteMedSAM's
            macro average on 52 cases was 0.2 points of DSC and 0.6 of NSD lower, most of it by three volumes of PET.
    """
    made: dict[tuple[bytes, tuple[int, ...]], Any] = {}  # equal constants become one node
    for constant in graph.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f16:
            continue
        (convert,) = constant.output(0).get_target_inputs()
        ports = convert.get_node().output(0).get_target_inputs()
        reader, values = next(iter(ports)), constant.data
        kind = reader.get_node().get_type_name()
        if values.size <= SMALL.get(kind, np.inf) or (kind == "MatMul" and not matrices):
            continue
        key = values.tobytes(), _summed_axes(reader, values.ndim)
        if key not in made:
            made[key] = _indexed(values) or _scaled(values.astype(np.float32), key[1])
            made[key].set_friendly_name(f"{constant.get_friendly_name()}/compressed")
        for port in ports:
            port.replace_source_output(made[key].output(0))
    graph.validate_nodes_and_infer_types()


def _summed_axes(reader: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that share a scale: those of a layer's inputs, else all but the last, the channels."""
    node = reader.get_node()
    if node.get_type_name() == "Convolution":
        return tuple(range(1, ndim))
    if node.get_type_name() == "MatMul" and node.get_attributes()["transpose_b"]:
        return (ndim - 1,)
    return tuple(range(ndim - 1))


def _scaled(values: NDArray[np.float32], axes: Collection[int]) -> Any:
    """Return a node of the values as int8 codes, -127 to 127, times scales, which float16 holds exactly."""
    scale = np.abs(values).max(axis=tuple(axes), keepdims=True) / 127
    half = np.maximum(scale, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
    codes = np.round(values / half).astype(np.int8)
    return op.multiply(op.convert(op.constant(codes), np.float32), op.constant(half))


def _indexed(values: NDArray[np.float16]) -> Any:
    """Return a node of values (heads, rows, columns) as an 8-bit index into each head's values, None if too many."""
    if values.ndim != 3 or len(values) == 1:
        return None
    table, index = np.unique(values.reshape(len(values), -1), axis=1, return_inverse=True)
    if table.shape[1] > 256:
        return None
    indices = op.convert(op.constant(index.reshape(values.shape[1:]).astype(np.uint8)), np.int32)
    return op.gather(
        op.convert(op.constant(np.ascontiguousarray(table)), np.float32), indices, op.constant(np.int32(1))
    )
