"""Case files: the challenge's NPZ with images, boxes and masks, read strictly and without pickle."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.prompts import check_labels, fit_boxes, is_mask_volume
from graysam.io.image import UNKNOWN, Image, Spacing, SpacingOrder, declared_volume, stored_image, stored_spacing
from graysam.io.npz import open_npz


@dataclass(frozen=True, eq=False)
class Case:
    """One case as read from its file.

    Attributes:
        image: pixels in the dtype stored; others than uint8 are for `imaging.to_uint8`.
        boxes: (N, 4) x_min, y_min, x_max, y_max or (N, 6) x_min, y_min, z_min, x_max, y_max, z_max, inclusive pixel
            indices, int64 or float64, clipped to the image; None in a training case.
        gts: multi-label integers of the image's grid; None in an input case.
        notes: what was changed or assumed, one line each, for the user to see; begins with the image's.

    Raises:
        ValueError: gts of another grid than the image's, or with labels outside 0..65535.
    """

    image: Image
    boxes: NDArray[Any] | None = None
    gts: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(dict.fromkeys((*self.image.notes, *self.notes))))
        if self.gts is None:
            return
        object.__setattr__(self, "gts", check_labels(self.gts, "gts"))
        if self.gts.shape != self.image.grid:
            shapes = f"gts have shape {self.gts.shape}, imgs {self.image.pixels.shape}"
            raise ValueError(f"{shapes}; required: the same grid")


class TrainingName(NamedTuple):
    """What a training file's name says: modality, dataset, and the patient or image within the dataset."""

    modality: str
    dataset: str
    subject: str


def training_name(name: str) -> TrainingName:
    """Split `<Modality>_<Dataset>_<case>`; the case may hold more underscores.

    `<Modality>_<case>` has the dataset "unknown", a name without underscores the modality "unknown" as well; a prefix
    2DBox_ or 3DBox_ is left out.
    """
    fields = [field for field in name.split("_") if field]
    if len(fields) > 1 and fields[0] in ("2DBox", "3DBox"):
        fields = fields[1:]
    if len(fields) >= 3:
        return TrainingName(fields[0], fields[1], "_".join(fields[2:]))
    return TrainingName(fields[0] if len(fields) == 2 else UNKNOWN, UNKNOWN, fields[-1] if fields else name)


def read_input_case(path: str | Path, *, z_max_inclusive: bool = True) -> Case:
    """Read a case to be segmented: imgs and boxes, and spacing in 3D where stored (in array order, z, y, x).

    `imaging.prompts` decides between 2D and 3D, and which boxes are clipped and noted or refused; where the arrays fit
    both, a stored spacing or the name's prefix says which. Case.boxes is (0, 4) or (0, 6) without any.

    Args:
        path: the NPZ.
        z_max_inclusive: whether z_max is a box's last slice, or the first one after it.

    Raises:
        CaseError: a ValueError of one line.
    """
    path = Path(path)
    with open_npz(path) as npz:
        image = stored_image(npz, path)
        boxes = npz.read("boxes", kinds="uif", ranks=(1, 2))
        boxes, notes = fit_boxes(boxes, image.pixels.shape, volume=image.is_volume, z_max_inclusive=z_max_inclusive)
        return Case(image, boxes, notes=notes)


def read_training_case(path: str | Path, spacing_order: SpacingOrder = "zyx") -> Case:
    """Read a case with masks: imgs and gts, and spacing in 3D where stored.

    gts of two axes mean 2D, of three 3D, unless one may hold channels and nothing declares a volume: those are
    refused. Empty masks are accepted.

    Args:
        path: the NPZ.
        spacing_order: how the file stores the spacing; Image.spacing_mm is z, y, x.

    Raises:
        CaseError: a ValueError of one line.
    """
    path = Path(path)
    with open_npz(path) as npz:
        gts = npz.read("gts", kinds="uib", ranks=(2, 3))
        volume = is_mask_volume(gts.shape, declared_volume(npz, path.stem), "gts")
        image = stored_image(npz, path, volume, spacing_order)
        return Case(replace(image, modality=training_name(path.stem).modality), gts=gts, notes=label_notes(gts))


def label_notes(gts: NDArray[Any]) -> tuple[str, ...]:
    """Return what is odd about the numbers of labels: nothing, or one line."""
    if gts.max(initial=0) == 255 and np.count_nonzero(gts) == np.count_nonzero(gts == 255):
        return ("gts hold the label 255 alone; a mask of 0/255? labels are matched by number, so store 1 for it",)
    return ()


def read_gts(path: str | Path, spacing_order: SpacingOrder | None = "zyx") -> tuple[NDArray[Any], Spacing | None]:
    """Read gts, integers (H, W) or (D, H, W), and the spacing z, y, x in mm, None in 2D or where not stored.

    The default order takes the spacing as stored, as the official script does; None reads no spacing. Raises CaseError,
    also for a spacing that is none and for a shape that may be both, as `read_training_case`.
    """
    path = Path(path)
    with open_npz(path) as npz:
        gts = check_labels(npz.read("gts", kinds="uib", ranks=(2, 3)), "gts")
        volume = is_mask_volume(gts.shape, declared_volume(npz, path.stem), "gts")
        return gts, stored_spacing(npz, spacing_order) if volume and spacing_order else None


def read_segs(path: str | Path) -> NDArray[Any]:
    """Read segs, integers (H, W) or (D, H, W), 0 being background. Raises CaseError."""
    with open_npz(Path(path)) as npz:
        return check_labels(npz.read("segs", kinds="uib", ranks=(2, 3)), "segs")
