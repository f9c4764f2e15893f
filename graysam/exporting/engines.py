"""Kinds that other engines than torch run: OpenVINO in bfloat16 and int8, ONNX Runtime with dynamic int8.

Converting and calibrating take their time, so what is made is stored as a bundle and opened again by other processes.
Engines are imported where they are used: training without these kinds does without them.
"""

import importlib.util
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.exporting.method import Prepared, Workplace
from graysam.imaging.presets import scheme_to_dict
from graysam.inference.exported_model import ExportedModel, read_exported, write_exported
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.inference.volume import Backend
from graysam.models.sam import Sam

AnyArray = NDArray[Any]


def _not_installed(*packages: str) -> str | None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb} not installed: pip install '.[quantize]'" if missing else None


def _store(place: Workplace, kind: str, precision: str, write_graphs: Any) -> ExportedModel:
    description = {
        "name": kind,
        "kind": kind,
        "precision": precision,
        "size": place.size,
        "channels": scheme_to_dict(place.scheme),
    }
    return write_exported(place.folder, description=description, write_graphs=write_graphs)


def _prepared(bundle: ExportedModel, backend: Backend, layers: frozenset[str]) -> Prepared:
    files: Mapping[str, Any] = bundle.description["files"]
    return Prepared(backend, layers, sum(facts["bytes"] for facts in files.values()))


# ------------------------------------------------------------------ OpenVINO
def no_openvino_bf16() -> str | None:
    """Say why OpenVINO cannot compute in bfloat16 here."""
    missing = _not_installed("openvino")
    if missing:
        return missing
    if not has_bf16(open_core()):
        return "this CPU has no instructions for bfloat16; OpenVINO would compute in float32"
    return None


def no_openvino_int8() -> str | None:
    """Say why a model cannot be calibrated for OpenVINO here."""
    return _not_installed("openvino", "nncf")


def prepare_openvino_bf16(model: Sam, place: Workplace) -> Prepared:
    """Convert for bfloat16: all that is multiplied with a layer's weights."""
    graphs, names = _converted(model, place)
    return _stored_openvino(graphs, place, "bf16", frozenset(name for name in names.values() if name is not None))


def prepare_openvino_int8(model: Sam, place: Workplace) -> Prepared:
    """Calibrate the image encoder for int8 on training images.

    The layers named are those in int8; what else there is runs in bfloat16 where the CPU has it.
    """
    from graysam.exporting.calibration import quantize_encoder

    graphs, names = _converted(model, place)
    encoder = quantize_encoder(graphs["encoder"], place.calibration_images())
    quantized = [names[f"encoder/{name}"] for name in _constants(encoder, int8_only=True)]
    return _stored_openvino(
        {**graphs, "encoder": encoder}, place, "int8", frozenset(name for name in quantized if name is not None)
    )


def reopen_openvino(model: Sam, folder: Path, threads: int) -> Backend:
    """Open a stored bundle; the Sam is not needed."""
    from graysam.inference.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(read_exported(folder), threads=threads, cache_dir=None)


def _converted(model: Sam, place: Workplace) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return a model's graphs, and for every product in them, by `<graph>/<node>`, the name of its layer."""
    from graysam.exporting.conversion import convert
    from graysam.exporting.tracing import trace_layers

    graphs = convert(model, place.size, half_precision=True)
    constants = {f"{stem}/{name}": value for stem, graph in graphs.items() for name, value in _constants(graph).items()}
    return graphs, trace_layers(model, constants)


def _stored_openvino(graphs: Mapping[str, Any], place: Workplace, kind: str, layers: frozenset[str]) -> Prepared:
    from graysam.exporting.graph_files import save_graphs
    from graysam.inference.openvino_backend import OpenVinoBackend

    bundle = _store(place, kind, "bf16", partial(save_graphs, graphs, half_precision=True))
    return _prepared(bundle, OpenVinoBackend(bundle, threads=None, cache_dir=None), layers)


_SHAPING = ("Concat", "Pad", "Reshape", "Slice", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit")
_UNPACKING = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose")  # between weights and product


def _constants(graph: Any, *, int8_only: bool = False) -> dict[str, AnyArray]:
    """Return by friendly name what the products of a graph multiply with, where that is constant.

    int8_only: of products only whose factors both are int8: a FakeQuantize before, and weights that are stored as int8
    or have a FakeQuantize of their own.
    """
    found = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        given, weights = _source(node, 0, _SHAPING), _source(node, 1, _UNPACKING)
        if weights.get_type_name() != "Constant":
            continue
        if int8_only and not (given.get_type_name() == "FakeQuantize" and _is_int8(node, weights)):
            continue
        channels = weights.data
        if node.get_type_name() == "GroupConvolution":  # (groups, channels, ...) or what is reshaped to that
            groups, each = node.input_value(1).get_shape()[:2]
            channels = channels.reshape(groups * each, -1)[:, :, None]
        found[node.get_friendly_name()] = channels
    return found


def _source(node: Any, port: int, through: tuple[str, ...]) -> Any:
    """Return the node that a factor comes from, looking through others by their first input."""
    source = node.input_value(port).get_node()
    while source.get_type_name() in through:
        source = source.input_value(0).get_node()
    return source


def _is_int8(node: Any, weights: Any) -> bool:
    stored = weights.get_element_type().get_type_name() in ("i8", "u8")
    return stored or _source(node, 1, ("Reshape", "Transpose")).get_type_name() == "FakeQuantize"


# ------------------------------------------------------------------ ONNX Runtime
no_onnxruntime = partial(_not_installed, "onnx", "onnxscript", "onnxruntime")


def prepare_onnxruntime_dynamic(model: Sam, place: Workplace) -> Prepared:
    """Quantize every product with a constant matrix: the counterpart of torch.ao's nn.Linear."""
    from graysam.exporting.onnx_export import export_onnx
    from graysam.exporting.tracing import trace_layers
    from graysam.inference.onnx_backend import OnnxBackend

    weights: dict[str, AnyArray] = {}

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="graysam_onnx_") as temporary:
            export_onnx(model, place.size, Path(temporary))
            for name in ("encoder.onnx", "decoder.onnx"):
                weights.update(_quantize_dynamic(Path(temporary) / name, folder / name))

    bundle = _store(place, "onnx", "f32", write)
    names = trace_layers(model, weights)
    strangers = [weight for weight, name in names.items() if name is None]
    if strangers:
        raise ValueError(f"quantized, but no layer of the model: {', '.join(strangers)}")
    layers = frozenset(name for name in names.values() if name is not None)
    return _prepared(bundle, OnnxBackend(bundle, threads=None), layers)


def reopen_onnxruntime(model: Sam, folder: Path, threads: int) -> Backend:
    """Open a stored bundle; the Sam is not needed."""
    from graysam.inference.onnx_backend import OnnxBackend

    return OnnxBackend(read_exported(folder), threads=threads)


def _quantize_dynamic(given: Path, target: Path) -> dict[str, AnyArray]:
    """Quantize a graph; return the float32 matrices that are int8 ones now, in the order of computation."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    graph = onnx.load(given)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    add_pre_process_metadata(graph)  # torch's exporter has inferred the shapes and folded what is constant
    quantize_dynamic(graph, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    products = [node.input[1] for node in onnx.load(target).graph.node if node.op_type == "MatMulInteger"]
    sources = [name.removesuffix("_quantized").removesuffix("_Transposed") for name in products]
    return {f"{given.stem}/{name}": np.asarray(constants[name], np.float32) for name in sources}
