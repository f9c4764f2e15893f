"""The losses against the original code's numbers, and each term's way to the mask head."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graysam.training.losses import SegmentationLoss, bce_per_object, iou_per_object, squared_dice_per_object


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, np.ndarray]:
    with np.load(goldens / "losses.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def tensors(golden: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(golden["logits"]),
        torch.from_numpy(golden["iou_pred"]),
        torch.from_numpy(golden["gt"]).float(),
    )


def test_terms_match_the_original(golden: dict[str, np.ndarray]) -> None:
    logits, iou, gt = tensors(golden)
    assert bce_per_object(logits, gt).mean().item() == pytest.approx(float(golden["bce_logits_mean"]), abs=1e-5)
    dice = squared_dice_per_object(logits, gt).mean().item()
    assert dice == pytest.approx(float(golden["monai_dice_sigmoid_squared"]), abs=1e-5)
    np.testing.assert_allclose(iou_per_object(logits, gt), golden["iou_gt"], atol=1e-6)
    terms = SegmentationLoss(bce_weight=1, dice_weight=1, iou_weight=1)(logits, iou, gt)
    assert terms["iou"].mean().item() == pytest.approx(float(golden["mse_iou"]), abs=1e-5)


@pytest.mark.parametrize(
    ("seg", "ce", "iou", "key"),
    [(1, 1, 1, "default_loss_seg1.0_ce1.0_iou1.0"), (0.5, 2, 0.25, "default_loss_seg0.5_ce2.0_iou0.25")],
)
def test_weighted_sum_matches_the_original(
    golden: dict[str, np.ndarray], seg: float, ce: float, iou: float, key: str
) -> None:
    logits, predicted, gt = tensors(golden)
    loss = SegmentationLoss(bce_weight=ce, dice_weight=seg, iou_weight=iou)(logits, predicted, gt)
    assert loss["total"].mean().item() == pytest.approx(float(golden[key]), abs=1e-5)


def test_empty_mask_and_empty_prediction_agree(golden: dict[str, np.ndarray]) -> None:
    logits, predicted, gt = tensors(golden)
    logits[0], gt[0] = -20.0, 0.0
    assert iou_per_object(logits, gt)[0].item() == 1.0
    np.testing.assert_allclose(iou_per_object(logits, gt)[1:], golden["empty_first__iou_gt"][1:], atol=1e-6)
    assert SegmentationLoss(bce_weight=1, dice_weight=1, iou_weight=1)(logits, predicted, gt)["total"].isfinite().all()


def test_dice_of_a_hand_computed_case() -> None:
    logits = torch.tensor([[[0.0, 0.0]]])  # p = 0.5, 0.5; g = 1, 0 -> 1 - 2*0.5 / (0.5 + 1)
    masks = torch.tensor([[[1.0, 0.0]]])
    assert squared_dice_per_object(logits, masks).item() == pytest.approx(1 / 3, abs=1e-5)


@pytest.mark.parametrize("term", ["bce_weight", "dice_weight", "iou_weight"])
def test_each_term_alone_reaches_its_head(term: str) -> None:
    from graysam.models.registry import build_model

    torch.manual_seed(0)
    model = build_model("efficientvit_sam_l0")
    weights = dict.fromkeys(("bce_weight", "dice_weight", "iou_weight"), 0.0) | {term: 1.0}
    embedding = torch.randn(1, 256, 64, 64) * 0.1
    logits, iou = model.decode(embedding, torch.tensor([[[20.0, 30.0, 120.0, 200.0]]]))
    masks = torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    masks[..., 40:150, 30:100] = True
    SegmentationLoss(**weights)(logits, iou, masks)["total"].mean().backward()
    head = model.mask_decoder.iou_prediction_head if term == "iou_weight" else model.mask_decoder.output_upscaling
    gradients = [p.grad for p in head.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    shared = model.mask_decoder.transformer.layers[0].self_attn.q_proj.weight.grad
    assert shared is not None
    assert shared.abs().sum() > 0
