"""The one image type, read from the challenge's NPZ or a picture, and masks written in the same format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.prompts import check_image_shape, check_labels, is_volume
from graysam.io.npz import MAX_BYTES, CaseError, Npz, open_npz
from graysam.system.files import replacing

Spacing = tuple[float, float, float]
UNKNOWN = "unknown"

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")  # how PNG, JPEG, TIFF and BMP begin
_LOSSLESS = (".png", ".tif", ".tiff")  # pictures that keep 16-bit labels exactly


@dataclass(frozen=True, eq=False)
class Image:
    """An image or a volume as it is stored.

    Attributes:
        pixels: (H, W), RGB (H, W, 3) or a volume (D, H, W), of any integer or float dtype; finite.
        spacing_mm: z, y, x of a volume; None where none is known.
        modality: e.g. `CT`; `unknown` where nothing says it.
        name: of its file, without the suffix.
        is_volume: whether the pixels are (D, H, W).

    Raises:
        ValueError: pixels of another shape.
    """

    pixels: NDArray[Any]
    spacing_mm: Spacing | None = None
    modality: str = UNKNOWN
    name: str = ""
    is_volume: bool = False

    def __post_init__(self) -> None:
        check_image_shape(self.pixels.shape, self.is_volume)

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the image's masks: (H, W) or (D, H, W)."""
        return self.pixels.shape if self.is_volume else self.pixels.shape[:2]


def modality_of(name: str) -> str:
    """Return the modality in `2DBox_<Modality>_<id>` or `3DBox_<Modality>_<id>`; otherwise "unknown"."""
    fields = name.split("_")
    return fields[1] if len(fields) >= 2 and fields[0] in ("2DBox", "3DBox") and fields[1] else UNKNOWN


def read_image(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Image:
    """Read an NPZ with `imgs`, or a PNG, JPEG, TIFF or BMP picture; the content decides, not the suffix.

    Args:
        path: the file. Colour becomes RGB, an alpha channel is dropped, an orientation tag is not applied.
        max_bytes: the most that the arrays of an NPZ may need.

    Raises:
        CaseError: a ValueError of one line, for a file that cannot be used.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror})") from None
    if start.startswith(_PICTURES):
        return Image(_read_picture(path), modality=modality_of(path.stem), name=path.stem)
    if start and not start.startswith(b"PK") and path.suffix.lower() != ".npz":
        raise CaseError(f"{path}: not an image; required: the challenge's NPZ, PNG, JPEG, TIFF or BMP; export it again")
    with open_npz(path, max_bytes) as npz:
        pixels = npz.read("imgs", kinds="uif", ranks=(2, 3))
        boxes = npz.read("boxes", kinds="uif", ranks=(1, 2)) if "boxes" in npz else np.zeros(0)
        spacing = stored_spacing(npz)
        return image_of(path, pixels, is_volume(pixels.shape, boxes, hint=says_volume(path, spacing)), spacing)


def stored_spacing(npz: Npz) -> NDArray[Any] | None:
    """Return the spacing in the order of the file; None where there is none."""
    return npz.read("spacing", kinds="uif", ranks=(1,)) if "spacing" in npz else None


def says_volume(path: Path, spacing: NDArray[Any] | None) -> bool:
    """Return what a stored spacing or the name's prefix says of a file whose arrays leave 2D or 3D open."""
    return spacing is not None or path.stem.startswith("3DBox_")


def image_of(path: Path, pixels: NDArray[Any], volume: bool, spacing: NDArray[Any] | None) -> Image:
    """Return an NPZ's arrays as an image; spacing in array order.

    Raises:
        ValueError: an image of the wrong shape or with values that are not finite, or a spacing that is none.
    """
    check_image_shape(pixels.shape, volume)
    if not volume and pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError(
            f"imgs of dtype {pixels.dtype} hold NaN or infinity; required: finite values, best uint8; "
            "replace them before saving"
        )
    spacing_mm = check_spacing(spacing) if volume and spacing is not None else None
    return Image(pixels, spacing_mm, modality_of(path.stem), path.stem, volume)


def check_spacing(spacing: NDArray[Any]) -> Spacing:
    """Return three positive numbers in mm; ValueError for anything else."""
    values = spacing.astype(np.float64)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"spacing is {spacing.tolist()}; required: 3 positive numbers in mm; correct the file")
    first, second, third = values.tolist()
    return first, second, third


def _read_picture(path: Path) -> NDArray[Any]:
    """Read a picture as (H, W) or RGB (H, W, 3), in its own dtype."""
    import cv2  # only here: cases from NPZ need NumPy alone

    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim not in (2, 3):
        raise CaseError(f"{path}: not an image that can be read; required: PNG, JPEG, TIFF or BMP; export it again")
    pixels: NDArray[Any] = stored
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, 2::-1]
    return np.ascontiguousarray(pixels)


def write_mask(path: str | Path, mask: NDArray[Any], like: Image | None = None) -> None:
    """Write labels as uint16: `segs` of a compressed NPZ, or a PNG or TIFF picture of the exact labels.

    Args:
        path: ending in .npz, .png, .tif or .tiff; written under a temporary name that is renamed when complete.
        mask: integers or bool, (H, W) or, into an NPZ alone, (D, H, W).
        like: the image that was segmented, whose grid the mask must have.

    Raises:
        CaseError: another suffix, shape or dtype, or labels outside 0..65535.
        OSError: as the file system does.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix != ".npz" and suffix not in _LOSSLESS:
        raise CaseError(f"{path}: masks are written as .npz, {', '.join(_LOSSLESS)}; got {suffix or 'no suffix'}")
    ranks = (2, 3) if suffix == ".npz" else (2,)
    if mask.ndim not in ranks or mask.dtype.kind not in "uib":
        raise CaseError(
            f"{path}: the mask has shape {mask.shape} and dtype {mask.dtype}; required: integers (H,W)"
            + (" or (D,H,W)" if suffix == ".npz" else "; write volumes as .npz")
        )
    if like is not None and mask.shape != like.grid:
        raise CaseError(f"{path}: the mask has shape {mask.shape}; required: {like.grid}, the image's grid")
    try:
        labels = check_labels(mask, "the mask's pixels").astype(np.uint16, copy=False)
    except ValueError as error:
        raise CaseError(f"{path}: {error}") from None
    with replacing(path) as temporary, temporary.open("xb") as file:  # savez appends .npz to names, not to open files
        if suffix == ".npz":
            np.savez_compressed(file, segs=labels)
        else:
            import cv2

            file.write(cv2.imencode(suffix, labels)[1].tobytes())
