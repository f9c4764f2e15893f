"""The benchmark's cases: the paper's Table 5 exactly, boxes on tissue, volumes cut down to fewer slices."""

import math
from pathlib import Path

import numpy as np
import pytest

from graysam.benchmarking.cases import (
    BenchmarkCase,
    PaperCase,
    build,
    cap_slices,
    choose_cases,
    folder_cases,
    paper_cases,
    table_5,
)
from tests.support.commands import BOXES_2D, image_2d, write_case

# Typed from the paper's Table 5: case, size, objects, seconds of the baseline and of the proposed model.
PRINTED = """
3DBox_CT_0566 287 512 512 6 210.98 51.85
3DBox_CT_0888 237 512 512 6 53.35 11.22
3DBox_CT_0860 246 512 512 1 7.50 2.51
3DBox_MR_0621 115 400 400 6 83.16 16.92
3DBox_MR_0121 64 290 320 6 51.20 9.84
3DBox_MR_0179 84 512 512 1 6.92 1.6
3DBox_PET_0001 264 200 200 1 3.50 0.78
2DBox_US_0525 256 256 3 1 0.40 0.11
2DBox_X-Ray_0053 320 640 3 34 0.90 0.72
2DBox_Dermoscopy_0003 3024 4032 3 1 1.41 2.09
2DBox_Endoscopy_0086 480 560 3 1 0.43 0.09
2DBox_Fundus_0003 2048 2048 3 1 0.72 0.38
2DBox_Microscope_0008 1536 2040 3 19 1.05 0.66
2DBox_Microscope_0016 1920 2560 3 241 6.27 6.19
"""


def a_volume(boxes: list[list[int]]) -> BenchmarkCase:
    image = np.repeat(np.arange(10, dtype=np.uint8), 6).reshape(10, 2, 3)
    return BenchmarkCase("v", image, np.array(boxes), gts=image.astype(np.uint16) + 100, spacing_mm=(2.0, 1.0, 1.0))


def test_the_table_is_the_papers() -> None:
    rows = [line.split() for line in PRINTED.split("\n") if line]
    ours = [(c.name, *map(str, c.shape), str(c.objects), c.baseline_s, c.proposed_s) for c in table_5()]
    assert ours == [(*row[:5], float(row[5]), float(row[6])) for row in rows]


@pytest.mark.parametrize("case", table_5(), ids=lambda case: case.name)
def test_every_case_has_its_size_and_boxes_with_something_in_them(case: PaperCase) -> None:
    pytest.importorskip("nibabel")
    made = build(case)
    assert made.image.shape == case.shape
    assert made.image.dtype == np.uint8
    is_volume = case.name.startswith("3D")
    assert made.boxes.shape == (case.objects, 6 if is_volume else 4)
    for box in made.boxes:
        picture = made.image[(box[2] + box[5]) // 2] if is_volume else made.image
        x_min, y_min, x_max, y_max = box[[0, 1, 3, 4]] if is_volume else box
        assert 0 <= x_min < x_max < picture.shape[1] and 0 <= y_min < y_max < picture.shape[0]
        assert np.mean(picture[y_min : y_max + 1, x_min : x_max + 1] > 60) > 0.25, "tissue"
    assert len({tuple(box) for box in made.boxes.tolist()}) == case.objects


def test_objects_reach_over_the_slices_that_follow_from_the_papers_times() -> None:
    pytest.importorskip("nibabel")
    made = build(next(case for case in table_5() if case.name == "3DBox_MR_0121"))
    again = build(next(case for case in table_5() if case.name == "3DBox_MR_0121"))
    np.testing.assert_array_equal(made.image, again.image)
    facts = made.describe(made.image.shape)
    assert facts.object_slices == 128, "51.20 s at 0.40 s a slice and object"
    capped = cap_slices(made, 10)
    kept = capped.describe(made.image.shape).object_slices
    assert facts.object_slices / kept == pytest.approx(capped.stride, rel=0.25)


def test_a_volume_is_cut_down_to_every_nth_slice() -> None:
    case = a_volume([[0, 0, 2, 2, 1, 7], [0, 0, 4, 2, 1, 9]])
    capped = cap_slices(case, 4)
    np.testing.assert_array_equal(capped.image[:, 0, 0], [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(capped.boxes[:, [2, 5]], [[1, 3], [2, 4]])
    np.testing.assert_array_equal(capped.gts[:, 0, 0], [100, 102, 104, 106, 108])
    assert (capped.stride, capped.spacing_mm) == (2, (4.0, 1.0, 1.0))
    assert (case.describe(()).object_slices, capped.describe(()).object_slices) == (12, 6)


def test_a_box_between_two_kept_slices_keeps_one_and_what_need_not_be_cut_down_stays() -> None:
    capped = cap_slices(a_volume([[0, 0, 0, 2, 1, 9], [0, 0, 1, 2, 1, 1], [0, 0, 9, 2, 1, 9]]), 2)
    np.testing.assert_array_equal(capped.image[:, 0, 0], [0, 5])
    assert (capped.boxes[:, 2] == capped.boxes[:, 5])[1:].all()
    assert (capped.boxes[:, 5] < len(capped.image)).all()
    case, image = a_volume([[0, 0, 2, 2, 1, 4]]), BenchmarkCase("i", image_2d(), BOXES_2D)
    assert cap_slices(case, math.inf) is case and cap_slices(case, 3) is case and cap_slices(image, 1) is image


def test_a_folder_of_cases_with_masks(tmp_path: Path) -> None:
    write_case(tmp_path / "imgs", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    gts = np.ones((128, 160), np.uint8)
    write_case(tmp_path / "gts", "2DBox_US_1", gts=gts)
    case = folder_cases(tmp_path)["2DBox_US_1"]()
    np.testing.assert_array_equal(case.gts, gts)
    np.testing.assert_array_equal(case.image, image_2d())
    write_case(tmp_path / "imgs", "a", imgs=image_2d(), boxes=np.empty((0, 4)))
    with pytest.raises(ValueError, match=r"gts has no a\.npz"):
        folder_cases(tmp_path)
    with pytest.raises(ValueError, match="no boxes"):
        folder_cases(tmp_path / "imgs")["a"]()


def test_cases_are_chosen_by_words_of_their_names() -> None:
    assert list(choose_cases(paper_cases(), ["MR_0121", "US"])) == ["3DBox_MR_0121", "2DBox_US_0525"]
    assert len(choose_cases(paper_cases(), [])) == 14
    with pytest.raises(ValueError, match="no case is named OCT; available are 3DBox_CT_0566"):
        choose_cases(paper_cases(), ["US", "OCT"])
