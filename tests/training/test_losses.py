"""The losses against the original code's numbers, and each term's way to the mask head."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graysam.training.losses import SegmentationLoss, boundary_band, iou_per_object, squared_dice_per_object

UNIT = SegmentationLoss(bce_weight=1, dice_weight=1, iou_weight=1)


@pytest.fixture
def golden(goldens: Path) -> dict[str, torch.Tensor]:
    with np.load(goldens / "losses.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def test_terms_match_the_original(golden: dict[str, torch.Tensor]) -> None:
    logits, gt = golden["logits"], golden["gt"].float()
    terms = {name: term.mean() for name, term in UNIT(logits, golden["iou_pred"], gt).items()}
    expected = {"bce": "bce_logits_mean", "dice": "monai_dice_sigmoid_squared", "iou": "mse_iou"}
    for name, key in (expected | {"total": "default_loss_seg1.0_ce1.0_iou1.0"}).items():
        assert terms[name].item() == pytest.approx(golden[key].item(), abs=1e-5), name
    np.testing.assert_allclose(iou_per_object(logits, gt), golden["iou_gt"], atol=1e-6)
    weighted = SegmentationLoss(bce_weight=2, dice_weight=0.5, iou_weight=0.25)(logits, golden["iou_pred"], gt)
    expected_total = golden["default_loss_seg0.5_ce2.0_iou0.25"].item()
    assert weighted["total"].mean().item() == pytest.approx(expected_total, abs=1e-5)


def test_empty_mask_and_empty_prediction_agree(golden: dict[str, torch.Tensor]) -> None:
    logits, gt = golden["logits"], golden["gt"].float()
    logits[0], gt[0] = -20.0, 0.0
    assert iou_per_object(logits, gt)[0].item() == 1.0
    np.testing.assert_allclose(iou_per_object(logits, gt)[1:], golden["empty_first__iou_gt"][1:], atol=1e-6)
    assert UNIT(logits, golden["iou_pred"], gt)["total"].isfinite().all()


def test_dice_of_a_hand_computed_case() -> None:
    logits = torch.tensor([[[0.0, 0.0]]])  # p = 0.5, 0.5; g = 1, 0 -> 1 - 2*0.5 / (0.5 + 1)
    masks = torch.tensor([[[1.0, 0.0]]])
    assert squared_dice_per_object(logits, masks).item() == pytest.approx(1 / 3, abs=1e-5)


@pytest.mark.parametrize("term", ["bce_weight", "dice_weight", "iou_weight"])
def test_each_term_alone_reaches_its_head(term: str) -> None:
    weights = dict.fromkeys(("bce_weight", "dice_weight", "iou_weight"), 0.0) | {term: 1.0}
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    iou = torch.full((1, 2), 0.3, requires_grad=True)
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[..., 2:6, 3:5] = True
    SegmentationLoss(**weights)(logits, iou, masks)["total"].mean().backward()
    reached, other = (iou, logits) if term == "iou_weight" else (logits, iou)
    assert (reached.grad != 0).all() and not other.grad.any()


def test_the_band_lies_on_both_sides_of_the_contour() -> None:
    masks = torch.zeros(1, 1, 12, 12)
    masks[..., 3:9, 3:9] = 1
    band = boundary_band(masks, 1)[0, 0]
    expected = torch.zeros(12, 12)
    expected[2:10, 2:10] = 1
    expected[4:8, 4:8] = 0
    assert torch.equal(band, expected)
    assert not boundary_band(torch.zeros(1, 1, 8, 8), 2).any()
    assert not boundary_band(torch.ones(1, 1, 8, 8), 2).any()  # the image's border is no contour


def test_errors_near_the_contour_weigh_more() -> None:
    masks = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    masks[..., 16:48, 16:48] = True
    right = torch.where(masks, 8.0, -8.0)
    near, far = right.clone(), right.clone()
    near[..., 15, 20:40] = 8.0  # beside the mask
    far[..., 2, 20:40] = 8.0
    iou = torch.ones(1, 1)
    weighted = SegmentationLoss(bce_weight=1, dice_weight=0, iou_weight=0, boundary_weight=20, boundary_px=3)
    plain = SegmentationLoss(bce_weight=1, dice_weight=0, iou_weight=0)
    losses = {
        name: [loss(x, iou, masks)["bce"].item() for x in (near, far)] for name, loss in (("w", weighted), ("p", plain))
    }
    assert losses["p"][0] == pytest.approx(losses["p"][1])
    assert losses["w"][0] == pytest.approx(21 * losses["w"][1], rel=0.1)
    assert losses["w"][0] > losses["p"][0]
