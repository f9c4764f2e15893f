"""Averages of validation: over objects, then modalities; and the answer "everything inside the box"."""

import math

import numpy as np
import pytest
import torch

from graysam.data.dataset import Item
from graysam.training.scores import Scores, comparison_table, filled_box, score_filled_boxes


def square(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((256, 256), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_macro_is_the_mean_of_modalities_not_of_objects() -> None:
    scores = Scores()
    whole, half = square(0, 20, 0, 20), square(0, 20, 0, 10)
    scores.add("CT_a", "CT", whole, whole, 0.1)
    scores.add("CT_b", "CT", whole, whole, 0.3)
    scores.add("US", "US", whole, half, 0.5)  # DSC 2 * 200 / 600
    by_group, by_modality = scores.by("group"), scores.by("modality")
    assert [m.dsc for m in by_group.values()] == pytest.approx([1, 1, 2 / 3])
    assert by_modality["CT"].loss == pytest.approx(0.2)
    assert by_modality["CT"].n == 2
    assert scores.macro().dsc == pytest.approx((1 + 2 / 3) / 2)
    assert scores.macro().loss == pytest.approx(0.35)
    assert scores.macro().n == 3
    assert scores.summary()["macro"]["dsc"] == pytest.approx(5 / 6)


def test_nothing_scored_is_not_a_number() -> None:
    assert math.isnan(Scores().macro().dsc)
    assert Scores().summary()["macro"]["n"] == 0


def test_filled_box_takes_inclusive_indices() -> None:
    assert np.array_equal(filled_box(np.array([3, 5, 6, 9], np.float32), 256), square(5, 10, 3, 7))


def test_filling_the_box_of_a_square_is_perfect() -> None:
    mask = square(10, 40, 20, 60)
    box = np.array([[20, 10, 59, 39]], np.float32)
    item = Item("k", "g", "CT", torch.zeros(0), torch.from_numpy(box), torch.from_numpy(mask[None]))
    assert score_filled_boxes([item], 256).macro()[:2] == (1.0, 1.0)


def test_table_holds_every_modality_in_per_cent() -> None:
    scores = Scores()
    scores.add("CT_a", "CT", square(0, 20, 0, 20), square(0, 20, 0, 10))
    lines = comparison_table({"one": scores.summary(), "two": scores.summary()}).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["CT", "macro"]
    assert lines[2].count("66.67 / ") == 2
