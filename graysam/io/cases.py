"""Case files: the challenge's NPZ, read strictly and without pickle, and `segs` written atomically."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graysam.io.npz import MAX_BYTES, open_npz
from graysam.io.npz import CaseError as CaseError  # readers of cases catch it from here
from graysam.system.files import replacing

SpacingOrder = Literal["zyx", "xyz"]
MAX_LABEL = 65535  # segs are uint16
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Case:
    """One case as read from its file.

    name is the file's stem. image is (H,W), (H,W,3) RGB or (D,H,W), in the dtype stored: uint8 as a rule;
    wider integers and finite floats pass and are for `imaging.to_uint8`. boxes are (N,4) x_min, y_min, x_max,
    y_max or (N,6) x_min, y_min, z_min, x_max, y_max, z_max in inclusive pixel indices, int64 or float64,
    clipped to the image; None in a training case. gts are multi-label integers of the image's grid, None in
    an input case. spacing_mm is z, y, x; None in 2D or where none is stored. notes tell what was changed or
    assumed, one line each, and are for the user to see.
    """

    name: str
    modality: str
    image: NDArray[Any]
    boxes: NDArray[np.int64] | NDArray[np.float64] | None = None
    gts: NDArray[Any] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    is_volume: bool = False
    notes: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------ names


def modality_of(name: str) -> str:
    """The modality in `2DBox_<Modality>_<id>` or `3DBox_<Modality>_<id>`; otherwise "unknown"."""
    fields = name.split("_")
    return fields[1] if len(fields) >= 2 and fields[0] in ("2DBox", "3DBox") and fields[1] else UNKNOWN


class TrainingName(NamedTuple):
    """What a training file's name says: modality, dataset, and the patient or image within the dataset."""

    modality: str
    dataset: str
    subject: str


def training_name(name: str) -> TrainingName:
    """Split `<Modality>_<Dataset>_<case>`; the case may hold more underscores.

    `<Modality>_<case>` has the dataset "unknown", a name without underscores the modality "unknown" as well;
    a prefix 2DBox_ or 3DBox_ is left out.
    """
    fields = [field for field in name.split("_") if field]
    if len(fields) > 1 and fields[0] in ("2DBox", "3DBox"):
        fields = fields[1:]
    if len(fields) >= 3:
        return TrainingName(fields[0], fields[1], "_".join(fields[2:]))
    return TrainingName(fields[0] if len(fields) == 2 else UNKNOWN, UNKNOWN, fields[-1] if fields else name)


# ---------------------------------------------------------------------------------------------------- reading


def read_input_case(path: str | Path, *, z_max_inclusive: bool = True, max_bytes: int = MAX_BYTES) -> Case:
    """Read a case to be segmented: imgs and boxes, and spacing in 3D where stored (in array order, z, y, x).

    Four box columns mean 2D, six mean 3D. Without boxes, (0,), (0,4) or (0,6), (H,W) is 2D and (A,B,C) is 3D;
    where C is 1 or 3, the columns decide, then a stored spacing or the name's prefix, and 2D is left. Boxes
    partly outside are clipped and noted; with `z_max_inclusive=False` z_max may be D. Case.boxes is (0,4) or
    (0,6) when there are none. Raises CaseError, always with one line.
    """
    path = Path(path)
    with open_npz(path, max_bytes) as npz:
        image = npz.read("imgs", kinds="uif", ranks=(2, 3))
        boxes = npz.read("boxes", kinds="uif", ranks=(1, 2))
        spacing = npz.read("spacing", kinds="uif", ranks=(1,)) if "spacing" in npz else None
    name = path.stem
    if boxes.shape in ((0,), (0, 4), (0, 6)):
        columns = _columns_without_boxes(image, boxes, spacing is not None, name)
    elif boxes.ndim == 2 and boxes.shape[1] in (4, 6):
        columns = boxes.shape[1]
    else:
        raise CaseError(f"{path}: boxes have shape {boxes.shape}; required: (N,4) in 2D or (N,6) in 3D, one box a row")
    is_volume = columns == 6
    image, notes = _checked_image(path, image, is_volume)
    boxes, box_notes = _checked_boxes(path, boxes.reshape(-1, columns), image.shape, is_volume, z_max_inclusive)
    return Case(
        name=name,
        modality=modality_of(name),
        image=image,
        boxes=boxes,
        spacing_mm=_checked_spacing(path, spacing, "zyx") if is_volume and spacing is not None else None,
        is_volume=is_volume,
        notes=(*notes, *box_notes),
    )


def _columns_without_boxes(image: NDArray[Any], boxes: NDArray[Any], has_spacing: bool, name: str) -> int:
    """4 for a 2D case, 6 for a 3D one, where no box tells."""
    if image.ndim == 2:
        return 4
    if image.shape[2] not in (1, 3):
        return 4 if name.startswith("2DBox_") else 6
    if boxes.ndim == 2:
        return int(boxes.shape[1])
    return 6 if has_spacing or name.startswith("3DBox_") else 4


def read_training_case(path: str | Path, spacing_order: SpacingOrder = "zyx", *, max_bytes: int = MAX_BYTES) -> Case:
    """Read a case with masks: imgs and gts, and spacing in 3D where stored.

    gts of rank 2 mean 2D, of rank 3 (and the image's shape) 3D. spacing_order says how the file stores the
    spacing; Case.spacing_mm is z, y, x. Masks without any object pass. Raises CaseError, always with one
    line.
    """
    path = Path(path)
    _check_order(spacing_order)
    with open_npz(path, max_bytes) as npz:
        image = npz.read("imgs", kinds="uif", ranks=(2, 3))
        gts = npz.read("gts", kinds="uib", ranks=(2, 3))
        spacing = npz.read("spacing", kinds="uif", ranks=(1,)) if "spacing" in npz else None
    is_volume = gts.ndim == 3
    image, notes = _checked_image(path, image, is_volume)
    grid = image.shape if is_volume else image.shape[:2]
    if gts.shape != grid:
        raise CaseError(
            f"{path}: gts have shape {gts.shape}, imgs {image.shape}; required: the same grid; "
            "export image and masks together"
        )
    return Case(
        name=path.stem,
        modality=training_name(path.stem).modality,
        image=image,
        gts=_checked_labels(path, "gts", gts),
        spacing_mm=_checked_spacing(path, spacing, spacing_order) if is_volume and spacing is not None else None,
        is_volume=is_volume,
        notes=notes,
    )


def read_gts(
    path: str | Path, spacing_order: SpacingOrder = "zyx", *, max_bytes: int = MAX_BYTES
) -> tuple[NDArray[Any], tuple[float, float, float] | None]:
    """Read gts, integers (H,W) or (D,H,W), and the spacing z, y, x in mm, None in 2D or where not stored.

    The default order takes the spacing as stored, as the official script does. Raises CaseError.
    """
    path = Path(path)
    _check_order(spacing_order)
    with open_npz(path, max_bytes) as npz:
        gts = npz.read("gts", kinds="uib", ranks=(2, 3))
        spacing = npz.read("spacing", kinds="uif", ranks=(1,)) if "spacing" in npz else None
        gts = _checked_labels(path, "gts", gts)
    if gts.ndim == 2 or spacing is None:
        return gts, None
    return gts, _checked_spacing(path, spacing, spacing_order)


def read_segs(path: str | Path, *, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """Read segs, integers (H,W) or (D,H,W), 0 being background. Raises CaseError."""
    path = Path(path)
    with open_npz(path, max_bytes) as npz:
        return _checked_labels(path, "segs", npz.read("segs", kinds="uib", ranks=(2, 3)))


def write_segs(path: str | Path, segs: NDArray[Any]) -> None:
    """Write segs as compressed NPZ, under a temporary name that is renamed when complete.

    segs are integers or bool (H,W) or (D,H,W), stored as uint16.

    Raises CaseError for another rank, non-integers, or labels outside 0..65535; OSError as the file system
    does.
    """
    path = Path(path)
    if segs.ndim not in (2, 3) or segs.dtype.kind not in "uib":
        raise CaseError(f"{path}: segs of shape {segs.shape}, dtype {segs.dtype}; required: integers (H,W) or (D,H,W)")
    _checked_labels(path, "segs", segs)
    with replacing(path) as temporary, temporary.open("xb") as file:  # savez appends .npz to names, not to open files
        np.savez_compressed(file, segs=segs.astype(np.uint16, copy=False))


# ----------------------------------------------------------------------------------------------------- checks


def _check_order(spacing_order: str) -> None:
    if spacing_order not in ("zyx", "xyz"):
        raise CaseError(
            f"spacing_order is {spacing_order!r}; required: zyx (array order) or xyz (the challenge's script)"
        )


def _checked_image(path: Path, image: NDArray[Any], is_volume: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The image as (H,W), (H,W,3) or (D,H,W), never empty, finite, and the notes on it."""
    wrong_rank = image.ndim != 3 if is_volume else image.ndim == 3 and image.shape[2] not in (1, 3)
    if wrong_rank:
        required = "(D,H,W) beside 3D boxes or masks" if is_volume else "(H,W) or (H,W,3) RGB beside 2D boxes or masks"
        raise CaseError(f"{path}: imgs have shape {image.shape}; required: {required}; leave out an alpha channel")
    if image.size == 0:
        raise CaseError(f"{path}: imgs have shape {image.shape}; required: at least one pixel; export the case again")
    if not is_volume and image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype == np.uint8:
        return image, ()
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise CaseError(
            f"{path}: imgs of dtype {image.dtype} hold NaN or infinity; required: finite values, best uint8; "
            "replace them before saving"
        )
    return image, (f"imgs are {image.dtype}, not uint8: scaled by the whole array's minimum and maximum",)


def _checked_boxes(
    path: Path, boxes: NDArray[Any], shape: tuple[int, ...], is_volume: bool, z_max_inclusive: bool
) -> tuple[NDArray[Any], list[str]]:
    """Boxes as int64 or float64, inside the image, and a note per box clipped."""
    if len(boxes) > MAX_LABEL:
        raise CaseError(f"{path}: {len(boxes)} boxes; required: at most {MAX_LABEL} (segs are uint16); split the case")
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise CaseError(f"{path}: box {row + 1} is {boxes[row].tolist()}; required: finite numbers; correct or drop it")
    if boxes.dtype.kind == "u":
        boxes = np.minimum(boxes, np.iinfo(np.int64).max)  # before a cast that would wrap
    boxes = boxes.astype(np.float64 if boxes.dtype.kind == "f" else np.int64)
    axes = 3 if is_volume else 2
    low, high = boxes[:, :axes], boxes[:, axes:]
    last = np.array((shape[2], shape[1], shape[0]) if is_volume else (shape[1], shape[0])) - 1  # x, y, z
    limit = last.copy()
    order = "x_min,y_min,z_min,x_max,y_max,z_max" if is_volume else "x_min,y_min,x_max,y_max"
    inverted = (low > high).any(axis=1)
    outside = ((high < 0) | (low > last)).any(axis=1)
    if is_volume and not z_max_inclusive:
        limit[2] += 1
        inverted |= low[:, 2] >= high[:, 2]
        outside |= high[:, 2] <= 0
    for wrong, what in ((inverted, "inverted or empty"), (outside, "wholly outside the image")):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise CaseError(
                f"{path}: box {row + 1}, {order} = {boxes[row].tolist()}, is {what} (image {shape}); "
                f"required: minimum <= maximum and a part inside; correct or drop the box"
            )
    clipped = np.concatenate([np.clip(low, 0, last), np.clip(high, 0, limit)], axis=1)
    changed = np.flatnonzero((clipped != boxes).any(axis=1))
    notes = [f"box {row + 1} clipped to the image: {boxes[row].tolist()} -> {clipped[row].tolist()}" for row in changed]
    return clipped.astype(boxes.dtype), notes


def _checked_labels(path: Path, key: str, labels: NDArray[Any]) -> NDArray[Any]:
    """Labels as unsigned or signed integers without negatives; bool becomes uint8."""
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.size and (labels.min() < 0 or labels.max() > MAX_LABEL):
        raise CaseError(
            f"{path}: {key} hold labels from {labels.min()} to {labels.max()}; required: 0 to {MAX_LABEL}; "
            "renumber the labels"
        )
    return labels


def _checked_spacing(path: Path, spacing: NDArray[Any], order: SpacingOrder) -> tuple[float, float, float]:
    """Spacing as z, y, x in mm."""
    values = spacing.astype(np.float64)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise CaseError(f"{path}: spacing is {spacing.tolist()}; required: 3 positive numbers in mm; correct the file")
    z, y, x = values if order == "zyx" else values[::-1]
    return float(z), float(y), float(x)
