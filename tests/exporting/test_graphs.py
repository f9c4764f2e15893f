"""Graphs for inference compute what the Sam computes: rearranged in torch, converted for OpenVINO and ONNX Runtime."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as op
import pytest
import torch
from torch import Tensor

from graysam.exporting.conversion import convert, convert_plain, export_onnx, save_graphs
from graysam.exporting.graphs import BoxDecoder, BoxTokens, ImageEncoder, _NeckByProducts
from graysam.imaging.channels import load_scheme, scheme_to_dict
from graysam.inference.backend import OnnxBackend
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.models.image_encoders import SamNeck, bicubic_matrix
from graysam.models.sam import Sam
from tests.exporting.test_methods import filled, tiny_l0, tiny_s, tiny_vit
from tests.support.traces import remembering_files

BOXES = torch.tensor([[10.0, 20.0, 100.0, 120.0], [50.0, 60.0, 200.0, 190.0], [0.0, 0.0, 255.0, 255.0]])
WHOLE = torch.tensor([64, 64])


@pytest.fixture(scope="module")
def model() -> Sam:
    return filled(tiny_l0()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [tiny_l0, tiny_vit, tiny_s])
@torch.inference_mode()
def test_the_encoder_gives_the_same_embedding_channels_last(build: Callable[[], Sam], images: Tensor) -> None:
    model = filled(build()).eval()
    expected = model.encode(images)
    torch.testing.assert_close(
        ImageEncoder(model)(images).transpose(1, 2).reshape(expected.shape), expected, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(model.encode(images), expected, msg="the given model stays as it is")


@torch.inference_mode()
def test_bicubic_products_are_torchs_bicubic_upsampling() -> None:
    features = [torch.randn(2, channels, side, side) for channels, side in ((12, 4), (8, 8), (6, 16))]
    neck = SamNeck(in_channels=(12, 8, 6), width=16, depth=1, expand_ratio=1, embedding_size=32).eval()
    torch.testing.assert_close(_NeckByProducts(neck, [4, 8, 16])(features), neck(features), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bicubic_matrix(8, 8), torch.eye(8))


@torch.inference_mode()
def test_the_decoder_in_parts_gives_the_same_masks(model: Sam, images: Tensor) -> None:
    for name, parameter in model.mask_decoder.transformer.named_parameters():
        assert parameter.abs().max() > 0, f"a fold that dropped {name} would pass"
    embedding = model.encode(images)
    logits, iou = model.decode(embedding, BOXES[None])
    ours = BoxDecoder(model)(BoxTokens(model)(BOXES), embedding.flatten(2).transpose(1, 2), WHOLE)
    spread = float(logits.std())
    torch.testing.assert_close(ours[0], logits[0], atol=1e-4 * spread, rtol=1e-4)
    torch.testing.assert_close(ours[1], iou[0], atol=1e-4, rtol=1e-4)


def run(graph: ov.Model, inputs: dict[str, np.ndarray], precision: str = "f32") -> dict[str, ov.Tensor]:
    request = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
    request.infer(inputs)
    return {port.get_any_name(): request.get_tensor(port) for port in graph.outputs}


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
def test_converted_graphs_give_the_models_masks(model: Sam, images: Tensor, half: bool, tmp_path: Path) -> None:
    graphs = convert(model, half_precision=half)
    assert list(graphs) == ["encoder", "box_tokens", "box_decoder"]
    embedding = run(graphs["encoder"], {"images": images.numpy()})["embedding"]
    assert embedding.data.dtype == (np.float16 if half else np.float32)
    assert list(embedding.shape) == [1, 4096, 32]
    with torch.inference_mode():
        expected, expected_iou = model.decode(model.encode(images), BOXES[None])
    for count in (1, 3):  # the number of boxes is free
        tokens = run(graphs["box_tokens"], {"boxes": BOXES[:count].numpy()})
        found = run(graphs["box_decoder"], {**tokens, "embedding": embedding.data, "valid_size": WHOLE.numpy()})
        tolerance = float(expected.std()) * (0.05 if half else 1e-4)
        assert np.abs(found["logits"].data - expected[0, :count].numpy()).max() < tolerance
        assert np.abs(found["iou"].data - expected_iou[0, :count].numpy()).max() < (0.05 if half else 1e-4)
    whole = found["logits"].data.copy()
    valid_size = {**tokens, "embedding": embedding.data, "valid_size": np.array([48, 9])}
    part = run(graphs["box_decoder"], valid_size)["logits"].data
    np.testing.assert_array_equal(part, whole[:, :192, :36])


@pytest.mark.usefixtures("traced_once")
def test_plain_graphs_give_the_models_masks(model: Sam, images: Tensor) -> None:
    graphs = convert_plain(model)
    embedding = run(graphs["encoder"], {"images": images.numpy()})["embedding"]
    with torch.inference_mode():
        expected, _ = model.decode(model.encode(images), BOXES[None, 1:2])
    found = run(graphs["decoder"], {"embedding": embedding.data, "boxes": BOXES[1:2].numpy()})
    np.testing.assert_allclose(found["logits"].data, expected[0].numpy(), atol=1e-4 * float(expected.std()), rtol=1e-4)


# ------------------------------------------------------------------ files
def graph_of(quantized: bool) -> ov.Model:
    """Return a convolution as fine as the image, a rectifier, int8 levels if asked for, and a strided convolution."""
    rng = np.random.default_rng(0)
    given = op.parameter([1, 32, 16, 16], np.float32)
    kernels = [op.constant(rng.normal(size=(32, 32, 3, 3)).astype(np.float32)) for _ in range(2)]
    fine = op.convolution(given, kernels[0], [1, 1], [1, 1], [1, 1], [1, 1], name="fine")
    between = op.relu(fine, name="active")
    if quantized:
        bounds = [op.constant(np.float32(bound)) for bound in (-50.0, 50.0, -50.0, 50.0)]
        between = op.fake_quantize(between, *bounds, levels=256, name="levels")
    return ov.Model([op.convolution(between, kernels[1], [2, 2], [1, 1], [1, 1], [1, 1], name="coarse")], [given])


def test_written_graphs_keep_float32_as_fine_as_the_image_and_only_with_int8(tmp_path: Path) -> None:
    save_graphs({"int8": graph_of(quantized=True), "plain": graph_of(quantized=False)}, tmp_path, half_precision=True)
    marked = {}
    for name in ("int8", "plain"):
        nodes = ov.Core().read_model(tmp_path / f"{name}.xml").get_ordered_ops()
        precise = (node for node in nodes if "DisablePrecisionConversion_0" in node.get_rt_info())
        marked[name] = {node.get_friendly_name() for node in precise}
    assert marked == {"int8": {"fine", "active", "levels"}, "plain": set()}


def test_half_precision_takes_half_the_bytes_and_gives_nearly_the_same(tmp_path: Path) -> None:
    given = np.random.default_rng(1).normal(size=(1, 32, 16, 16)).astype(np.float32)
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


# ------------------------------------------------------------------ ONNX
@pytest.fixture(scope="module")
def bundle(model: Sam, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    pytest.importorskip("onnxscript", reason="an optional package")
    pytest.importorskip("onnxruntime", reason="an optional package")
    channels = scheme_to_dict(load_scheme("replicate"))
    description = {"name": "tiny", "kind": "onnx", "precision": "f32", "size": 256, "channels": channels}
    write_graphs = partial(remembering_files(export_onnx), model)
    folder = tmp_path_factory.mktemp("onnx") / "bundle"
    return write_exported(folder, description=description, write_graphs=write_graphs)


def test_onnx_runtime_gives_torchs_masks(model: Sam, images: Tensor, bundle: ExportedModel) -> None:
    assert set(bundle.description["files"]) == {"encoder.onnx", "decoder.onnx"}, "weights lie inside the graphs"
    backend = OnnxBackend(bundle, threads=1)
    pair = torch.cat([images, images.flip(3)])
    embeddings = backend.encode(pair.numpy())
    assert embeddings.shape == (2, 4096, 32)
    with torch.inference_mode():
        expected, expected_iou = model.decode(model.encode(pair), BOXES.expand(2, -1, -1))
    for i, embedding in enumerate(embeddings):
        tolerance = 1e-4 * float(expected[i].std())
        for count in (1, 3):  # the number of boxes is free
            logits, iou = backend.decode(embedding, BOXES[:count].numpy())
            np.testing.assert_allclose(logits, expected[i, :count].numpy(), atol=tolerance, rtol=1e-4)
            np.testing.assert_allclose(iou, expected_iou[i, :count].numpy(), atol=1e-4)


def test_what_onnx_runtime_cannot_run_is_refused(bundle: ExportedModel, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    damaged = replace(bundle, graphs={**bundle.graphs, "encoder": tmp_path / "encoder.onnx"})
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot run .*encoder\.onnx"):
        OnnxBackend(damaged, threads=1)
