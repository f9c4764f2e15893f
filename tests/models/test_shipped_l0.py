"""The model that comes with graysam: card, weights and bundle speak of the same file, and segment alike."""

import json

import numpy as np
import torch

from graysam.exporting.torch_backend import TorchBackend
from graysam.inference.predictor import Predictor
from graysam.inference.segmentation import Segmentation
from graysam.metrics.challenge import dice
from graysam.models.registry import open_pretrained
from graysam.models.weights import GRAYSAM_L0_SHA256, read_weights, resolve
from graysam.system.environment import weights_dir
from graysam.system.files import sha256_of
from tests.support.commands import BOXES_2D, image_2d


def test_card_weights_and_bundle_are_of_the_same_file() -> None:
    path = resolve("graysam_l0")
    assert sha256_of(path) == GRAYSAM_L0_SHA256
    assert f"`{GRAYSAM_L0_SHA256}`" in path.with_suffix(".md").read_text()
    description = json.loads((weights_dir() / "graysam_l0_int8" / "bundle.json").read_text())
    assert description["source"]["sha256"] == GRAYSAM_L0_SHA256
    assert description["parity"]["passed"]
    file = read_weights("graysam_l0")
    assert (file.source.known_as or "").startswith("graysam_l0")
    assert {value.dtype for value in file.tensors.values() if value.is_floating_point()} == {torch.float32}


def test_the_bundle_segments_as_the_weights_do_in_torch() -> None:
    found = open_pretrained("graysam_l0")
    predictor = Predictor("graysam_l0", threads=2)
    assert found.scheme == predictor.scheme
    assert found.scheme is not None
    backend = TorchBackend(found.model, device="cpu", precision="fp32")
    image = np.dstack([image_2d()] * 3)
    expected = Segmentation(image, BOXES_2D, backend, found.scheme, size=found.size).labels()
    masks = predictor.predict(image, BOXES_2D)
    for label in (1, 2):
        assert dice(masks == label, expected == label) > 0.98
