"""ONNX bundles: the same masks as torch's from ONNX Runtime, for any number of boxes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from graysam.imaging.channels import load_scheme, scheme_to_dict
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.models.sam import Sam
from tests.exporting.test_methods import filled, tiny_l0
from tests.support.traces import remembering_files

pytest.importorskip("onnxscript", reason="an optional package")
pytest.importorskip("onnxruntime", reason="an optional package")

from graysam.exporting.onnx_export import export_onnx
from graysam.inference.backend import OnnxBackend

BOXES = np.array([[10, 20, 100, 120], [50, 60, 200, 190], [0, 0, 255, 255]], np.float32)


@pytest.fixture(scope="module")
def model() -> Sam:
    return filled(tiny_l0()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def bundle(model: Sam, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    channels = scheme_to_dict(load_scheme("replicate"))
    description = {"name": "tiny", "kind": "onnx", "precision": "f32", "size": 256, "channels": channels}
    folder = tmp_path_factory.mktemp("onnx") / "bundle"
    export = remembering_files(export_onnx)
    return write_exported(folder, description=description, write_graphs=partial(export, model))


def test_onnx_runtime_gives_torchs_masks(model: Sam, bundle: ExportedModel) -> None:
    images = np.random.default_rng(0).random((2, 3, 256, 256), np.float32)
    assert set(bundle.description["files"]) == {"encoder.onnx", "decoder.onnx"}, "weights lie inside the graphs"
    backend = OnnxBackend(bundle, threads=1)
    embeddings = backend.encode(images)
    assert embeddings.shape == (2, 4096, 32)
    for image, embedding in zip(images, embeddings, strict=True):
        with torch.inference_mode():
            expected, expected_iou = model.decode(
                model.encode(torch.from_numpy(image[None])), torch.tensor(BOXES)[None]
            )
        tolerance = 1e-4 * float(expected.std())
        for count in (1, 3):  # the number of boxes is free
            logits, iou = backend.decode(embedding, BOXES[:count])
            np.testing.assert_allclose(logits, expected[0, :count].numpy(), atol=tolerance, rtol=1e-4)
            np.testing.assert_allclose(iou, expected_iou[0, :count].numpy(), atol=1e-4)


def test_what_onnx_runtime_cannot_run_is_refused(bundle: ExportedModel, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    damaged = replace(bundle, graphs={**bundle.graphs, "encoder": tmp_path / "encoder.onnx"})
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot run .*encoder\.onnx"):
        OnnxBackend(damaged, threads=1)
