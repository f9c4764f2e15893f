"""The official NSD of a 2D image beside that of its contour, on a disc and the same disc moved aside."""

import numpy as np
from numpy.typing import NDArray

from graysam.metrics.challenge import TOLERANCE, CaseMetrics, case_metrics
from graysam.reproduction.finding import Finding

RADIUS = 40  # px
SHIFTS = (0, 2, 4, 8, 16)  # px
SHOWN = 8  # px, of the shift that the summary tells of


def disc(radius: int, shift: int, side: int) -> NDArray[np.uint8]:
    """Return a filled disc, `shift` to the right of the middle, 1 inside: uint8 (side,side); all in px."""
    rows, columns = np.ogrid[:side, :side]
    return ((rows - side // 2) ** 2 + (columns - side // 2 - shift) ** 2 <= radius**2).astype(np.uint8)


def shifted_disc(radius: int, shift: int) -> CaseMetrics:
    """Score a disc that lies `shift` px aside of the true one, both of `radius` px; fractions."""
    side = 2 * (radius + shift) + 9
    return case_metrics(disc(radius, 0, side), disc(radius, shift, side))


def compare_surfaces(command: str) -> Finding:
    """Return what the official NSD and the contour's make of a disc moved aside."""
    scores = {shift: shifted_disc(RADIUS, shift) for shift in SHIFTS}
    shown = scores[SHOWN]
    return Finding(
        name="nsd",
        title="The official NSD of a 2D image measures its area, not its contour",
        command=command,
        summary=(
            f"The official script adds an axis to an image, and of a volume one slice thick every foreground pixel is "
            f"surface: a disc of radius {RADIUS} px, segmented {SHOWN} px aside, has an official NSD of "
            f"{100 * shown.nsd:.1f} % at a tolerance of {TOLERANCE:g} px, while {100 * shown.nsd_contour:.1f} % of the "
            f"contours agree; its DSC is {100 * shown.dsc:.1f} %."
        ),
        columns=("shift (px)", "DSC (%)", "official NSD (%)", "contour NSD (%)"),
        rows=[[shift, *(100 * value for value in score)] for shift, score in scores.items()],
    )
