"""The one image type, read from the challenge's NPZ or a picture, and masks written in the same format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.prompts import check_image_shape, check_labels, is_volume
from graysam.io.npz import CaseError, Npz, open_npz
from graysam.system.files import replacing

Spacing = tuple[float, float, float]
SpacingOrder = Literal["zyx", "xyz"]
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
        notes: what was changed or is assumed in reading and segmenting, one line each, for the user to see; pixels of
            another dtype than uint8 add one.

    Raises:
        ValueError: pixels of another shape or dtype, or that are not finite; a spacing that is none.
    """

    pixels: NDArray[Any]
    spacing_mm: Spacing | None = None
    modality: str = UNKNOWN
    name: str = ""
    is_volume: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_image_shape(self.pixels.shape, self.is_volume)
        dtype = self.pixels.dtype
        if dtype.kind not in "buif":
            raise ValueError(f"the image has dtype {dtype}; required: real numbers, best uint8; convert it")
        if dtype.kind == "f" and not (np.isfinite(self.pixels.min()) and np.isfinite(self.pixels.max())):
            raise ValueError(f"the image of dtype {dtype} holds NaN or infinity; required: finite values, best uint8")
        if self.spacing_mm is not None:
            check_spacing(np.asarray(self.spacing_mm))
        if dtype != np.uint8:
            scaled = f"pixels are {dtype}, not uint8: scaled by the whole array's minimum and maximum; window CT before"
            object.__setattr__(self, "notes", tuple(dict.fromkeys((*self.notes, scaled))))

    @property
    def grid(self) -> tuple[int, ...]:
        """The shape of the image's masks: (H, W) or (D, H, W)."""
        return self.pixels.shape if self.is_volume else self.pixels.shape[:2]


def check_spacing(spacing: NDArray[Any]) -> None:
    """Raise ValueError for what is not a spacing of 3 positive numbers, of which areas can be computed."""
    if spacing.shape != (3,) or not ((spacing >= 1e-9) & (spacing <= 1e6)).all():
        given = f"spacing is {spacing.tolist()}"
        raise ValueError(f"{given}; required: 3 positive numbers in mm, from 1e-9 to 1e6; correct the file")


def declared_volume(npz: Npz, name: str) -> bool | None:
    """Return whether a file says that it holds a volume: by the prefix 2DBox_ or 3DBox_, then by a stored spacing."""
    prefix = {"2DBox": False, "3DBox": True}.get(name.partition("_")[0])
    return True if prefix is None and "spacing" in npz else prefix


def modality_of(name: str) -> str:
    """Return the modality in `2DBox_<Modality>_<id>` or `3DBox_<Modality>_<id>`; otherwise "unknown"."""
    fields = name.split("_")
    return fields[1] if len(fields) >= 2 and fields[0] in ("2DBox", "3DBox") and fields[1] else UNKNOWN


def read_image(path: str | Path) -> Image:
    """Read an NPZ with `imgs`, or a PNG, JPEG, TIFF or BMP picture; the content decides, not the suffix.

    Args:
        path: the file. Colour becomes RGB, an alpha channel is dropped, an orientation tag is not applied.

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
        return _read_picture(path, is_tiff=start in (b"II*\0", b"MM\0*"))
    if start and not start.startswith(b"PK") and path.suffix.lower() != ".npz":
        raise CaseError(f"{path}: not an image; required: the challenge's NPZ, PNG, JPEG, TIFF or BMP; export it again")
    with open_npz(path) as npz:
        return stored_image(npz, path)


def stored_image(npz: Npz, path: Path, volume: bool | None = None, order: SpacingOrder = "zyx") -> Image:
    """Return the image of an NPZ. A spacing that is none becomes a note, because nothing that segments needs one.

    Args:
        npz: open, with imgs.
        path: whose name says the modality.
        volume: whether it is one. None lets `imaging.prompts.is_volume` decide by the boxes, the prefix of the name, a
            stored spacing and the dtype.
        order: how the file stores the spacing.

    Raises:
        ValueError: an image of the wrong or an ambiguous shape, or with values that are not finite.
    """
    pixels = npz.read("imgs", kinds="uif", ranks=(2, 3))
    notes = []
    if volume is None:
        boxes = npz.read("boxes", kinds="uif", ranks=(1, 2)) if "boxes" in npz else np.zeros(0)
        volume = is_volume(pixels, boxes, declared_volume(npz, path.stem))
    if path.stem.startswith("2DBox_" if volume else "3DBox_"):
        notes.append(f"the name says {path.stem[:2]}, but the arrays are {'3D' if volume else '2D'}, which is used")
    if not volume and pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    spacing_mm = None
    try:
        spacing_mm = stored_spacing(npz, order) if volume else None
    except ValueError as error:
        notes.append(f"not used: {error}")
    return Image(pixels, spacing_mm, modality_of(path.stem), path.stem, volume, tuple(notes))


def stored_spacing(npz: Npz, order: SpacingOrder) -> Spacing | None:
    """Return the spacing in array order, z, y, x in mm; None where there is none. `order` is that of the file."""
    if "spacing" not in npz:
        return None
    values = npz.read("spacing", kinds="uif", ranks=(1,)).astype(np.float64)
    check_spacing(values)
    z, y, x = values[:: {"zyx": 1, "xyz": -1}[order]].tolist()
    return z, y, x


def _read_picture(path: Path, *, is_tiff: bool) -> Image:
    """Read a picture as (H, W) or RGB (H, W, 3), in its own dtype; of a TIFF, the first page, with a note of others."""
    import cv2  # only here: cases from NPZ need NumPy alone

    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim not in (2, 3):
        raise CaseError(f"{path}: not an image that can be read; required: PNG, JPEG, TIFF or BMP; export it again")
    pixels: NDArray[Any] = stored
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, 2::-1]
    pages = cv2.imcount(str(path)) if is_tiff else 1
    notes = (f"only page 1 of {pages} is read; save the others as files",) if pages > 1 else ()
    try:
        return Image(np.ascontiguousarray(pixels), modality=modality_of(path.stem), name=path.stem, notes=notes)
    except ValueError as error:
        raise CaseError(f"{path}: {error}") from None


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
    if mask.dtype.kind not in "uib" or mask.ndim not in ((2, 3) if suffix == ".npz" else (2,)):
        raise CaseError(f"{path}: the mask is {mask.dtype} {mask.shape}; required: integers (H,W), or (D,H,W) in .npz")
    if like is not None and mask.shape != like.grid:
        raise CaseError(f"{path}: the mask has shape {mask.shape}; required: {like.grid}, the image's grid")
    try:
        labels = check_labels(mask, "the mask's pixels").astype(np.uint16, copy=False)
    except ValueError as error:
        raise CaseError(f"{path}: {error}") from None
    with replacing(path) as temporary, temporary.open("wb") as file:  # savez appends .npz to names, not to open files
        if suffix == ".npz":
            np.savez_compressed(file, segs=labels)
        else:
            import cv2

            file.write(cv2.imencode(suffix, labels)[1].tobytes())
