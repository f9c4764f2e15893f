"""The official NSD of a 2D image beside that of its contour, for a disc and the same disc shifted."""

import numpy as np
from numpy.typing import NDArray

from graysam.metrics.challenge import TOLERANCE, CaseMetrics, case_metrics
from graysam.reproduction.checks import Check

RADIUS = 40  # px
SHIFTS = (0, 2, 4, 8, 16)  # px
IN_SUMMARY = 8  # px


def disc(radius: int, shift: int, side: int) -> NDArray[np.uint8]:
    """Return a filled disc `shift` px to the right of the centre: uint8 (side,side), 1 inside."""
    rows, columns = np.ogrid[:side, :side]
    return ((rows - side // 2) ** 2 + (columns - side // 2 - shift) ** 2 <= radius**2).astype(np.uint8)


def score_shifted_disc(radius: int, shift: int) -> CaseMetrics:
    """Score a disc that lies `shift` px beside the true one; both have a radius of `radius` px."""
    side = 2 * (radius + shift) + 9
    return case_metrics(disc(radius, 0, side), disc(radius, shift, side))


def compare_surfaces() -> Check:
    """Score a shifted disc by DSC, the official NSD and the contour's NSD."""
    scores = {shift: score_shifted_disc(RADIUS, shift) for shift in SHIFTS}
    dsc, nsd, contour = (100 * value for value in scores[IN_SUMMARY])
    return Check(
        "The official NSD of a 2D image measures its area, not its contour",
        f"The official script adds an axis to an image, and in a volume of one slice every foreground pixel is "
        f"surface: a disc of radius {RADIUS} px that is shifted by {IN_SUMMARY} px has an official NSD of {nsd:.1f} % "
        f"at a tolerance of {TOLERANCE:g} px, while {contour:.1f} % of the contours agree; its DSC is {dsc:.1f} %.",
        columns=("shift (px)", "DSC (%)", "official NSD (%)", "contour NSD (%)"),
        rows=[[shift, *(100 * value for value in score)] for shift, score in scores.items()],
    )
