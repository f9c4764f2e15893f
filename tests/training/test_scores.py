"""Averages of validation: over objects, then modalities; and the prediction "everything inside the box"."""

import numpy as np
import pytest
import torch

from graysam.data.dataset import Item
from graysam.metrics.challenge import binary_metrics
from graysam.training.scores import ObjectScore, Scores, comparison_table, score_filled_boxes


def square(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((256, 256), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_macro_is_the_mean_of_modalities_not_of_objects() -> None:
    scores = Scores()
    whole, half = square(0, 20, 0, 20), square(0, 20, 0, 10)
    for modality, group, predicted, loss in (("CT", "a", whole, 0.1), ("CT", "b", whole, 0.3), ("US", "US", half, 0.5)):
        scores.append(
            ObjectScore(group, modality, *binary_metrics(whole, predicted), loss)
        )  # the last one's DSC is 2 * 200 / 600
    assert [m.dsc for m in scores.by("group").values()] == pytest.approx([2 / 3, 1, 1])
    assert scores.by("modality")["CT"][2:] == pytest.approx((0.2, 2))
    macro = scores.by_modality()["macro"]
    assert (macro.dsc, *macro[2:]) == pytest.approx((5 / 6, 0.35, 3))
    assert scores.summary()["macro"]["dsc"] == pytest.approx(5 / 6)
    lines = comparison_table({"one": scores.summary(), "two": scores.summary()}).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["CT", "2"], ["US", "1"], ["macro", "3"]]
    assert lines[3].count("66.67 / ") == 2


def test_filling_the_box_of_a_square_is_perfect() -> None:
    mask, boxes = square(10, 40, 20, 60), torch.tensor([[20.0, 10, 59, 39]])  # inclusive pixel indices
    item = Item("k", "g", "CT", torch.zeros(0), boxes, torch.from_numpy(mask[None]))
    assert score_filled_boxes([item]).by_modality()["macro"][:2] == (1.0, 1.0)
