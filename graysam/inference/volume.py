"""The volume engine: box prompts to masks, for images and volumes, over any network.

The network is two calls, `encode` and `decode`, with NumPy at the border; torch, OpenVINO and the tests' stub
are its backends. A volume is segmented slice by slice: every object starts at its middle slice with its given
box, then goes upwards and downwards, prompted at each slice by the box around its own mask on the slice
before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, resize_longest_side, to_uint8
from graysam.imaging.channels import Scheme
from graysam.imaging.masks import Bounds, box_from_mask, grow_bounds, mask_to_native, native_blocks, positive_bounds

AnyArray = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Propagation = Literal["own", "litemedsam"]

BOX_BATCH = 8  # boxes decoded in one call; more at once leave the cache
EMBEDDING_BYTES = 512 << 20  # kept at most: 128 slices in float32, 256 in float16
BOX_MARGIN = 3  # grid pixels a side around the previous slice's mask, as LiteMedSAM
LARGEST_LABEL = 65535


class Backend(Protocol):
    """A segmentation network; `size` below is the side of its square input."""

    def encode(self, images: Float32Array) -> FloatArray:
        """Embed images: float32 (B, 3, size, size) in [0, 1] -> (B, ...) of any float dtype.

        An embedding's shape is the backend's own affair. What is returned may be overwritten by the next call.
        """

    def decode(
        self, embedding: FloatArray, boxes_256: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Segment one image: its embedding, boxes (N, 4) on the grid -> logits (N, size, size), iou (N,).

        valid_size: rows and columns of the grid that the image covers, None for all. Logits beyond are not looked at
        and may be left out, which is all that a backend may make of it.

        The embedding is one that `encode` gave, or a copy of it. What is returned may be overwritten by the next call.
        """


def decode_all(
    backend: Backend,
    embedding: FloatArray,
    boxes_256: Float32Array,
    box_batch: int = BOX_BATCH,
    valid_size: tuple[int, int] | None = None,
) -> Iterator[Float32Array]:
    """Yield every box's logits (size, size) in order, at most `box_batch` in one call.

    embedding: of one image; boxes_256: (N, 4) on the grid, none yield nothing; valid_size: see `Backend`. Logits hold
    until the next ones are asked for: a backend may use its buffer again.
    """
    for start in range(0, len(boxes_256), box_batch):
        logits, _ = backend.decode(embedding, boxes_256[start : start + box_batch], valid_size)
        yield from logits


def segment(
    image: AnyArray,
    boxes: npt.ArrayLike,
    backend: Backend,
    scheme: Scheme,
    *,
    propagation: Propagation = "own",
    z_max_inclusive: bool = True,
    size: int = 256,
    box_batch: int = BOX_BATCH,
    encode_batch: int = 1,
    embedding_bytes: int = EMBEDDING_BYTES,
    on_prompt: Callable[[int, int, Float32Array], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UInt16Array:
    """Segment an image or a volume by boxes.

    image: (H, W) or RGB (H, W, 3) with boxes (N, 4), or (D, H, W) with boxes (N, 6); dtypes other than uint8
    are scaled by the minimum and maximum of the whole array. boxes: x_min, y_min[, z_min], x_max, y_max[,
    z_max] in native pixels, any real dtype, x and y inside the image. z is truncated and clipped to the
    volume; z_max is the last slice taken, or with `z_max_inclusive=False` the first one left out.
    Returns segs uint16 (H, W) or (D, H, W): label k is box k, 1-based, and later boxes overwrite earlier
    ones. No boxes give zeros, and nothing is encoded.

    propagation: where the box of the next slice comes from, always grown by 3 grid pixels a side; an empty
    mask falls back to the given box.
    - `own`: the object's low-resolution mask (logits > 0 where the image lies on the grid), clipped to the
      pixels of the given box: a volume's box surrounds its object in every slice, so what lies beyond is none of
      it, and prompts cannot drift away. The prompt lives on that same grid, so no way to native pixels and back
      blurs it, and neither other objects nor the label's number have a say. A mask wholly outside counts as empty.
    - `litemedsam`: the native mask filled with its label, resized by area and clipped to `size`, as
      LiteMedSAM's script does it; the box depends on the label's number. Kept to reproduce the published
      baseline.

    Every slice is encoded once however many objects share it: one sweep goes up through all objects, one down. A slice
    both sweeps need keeps its embedding, as the backend gave it, up to `embedding_bytes` in all; past that it is
    encoded again. Which ones are kept makes no difference: the second sweep comes back the way the first went, so all
    of them would be kept when it turns. encode_batch: slices encoded in one call. box_batch: boxes decoded in one call.
    on_prompt(label, z, box) sees every prompt, z = 0 for an image, box float32 (4,) on the grid.
    progress(done, total) counts slices visited, over both sweeps.

    Raises ValueError for arrays that do not fit each other, non-finite boxes, boxes whose z range holds no
    slice, more than 65535 boxes, and options out of range.
    Source of the walk: LiteMedSAM's CVPR24_LiteMedSAM_infer.py, without the faults design.md lists.
    """
    if propagation not in get_args(Propagation):
        raise ValueError(f"propagation is {propagation!r}; it must be own or litemedsam")
    for name, value in (("box_batch", box_batch), ("encode_batch", encode_batch)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    boxes_given = np.asarray(boxes)
    slices, is_volume = _as_slices(np.asarray(image), boxes_given)
    depth, height, width = slices.shape[:3]
    canvas = Canvas(height, width, size)
    segs = np.zeros((depth, height, width), np.uint16)
    objects = _plan_objects(_as_boxes_3d(boxes_given), depth, canvas, z_max_inclusive or not is_volume)

    up = _by_slice((z, item) for item in objects for z in range(item.z_mid, item.z_max + 1))
    down = _by_slice((z, item) for item in objects for z in range(item.z_min, item.z_mid))
    shared = up.keys() & down.keys()
    encoder = _SliceEncoder(slices, backend, scheme, size, encode_batch, embedding_bytes, shared)
    done, total = 0, len(up) + len(down)

    valid_size = canvas.resized_height, canvas.resized_width
    for present, order in ((up, sorted(up)), (down, sorted(down, reverse=True))):
        for z, embedding in encoder.embeddings(order):
            prompts = np.stack([item.prompt(z) for item in present[z]])
            all_logits = decode_all(backend, embedding, prompts, box_batch, valid_size)
            for item, prompt, logits in zip(present[z], prompts, all_logits, strict=True):
                if on_prompt is not None:
                    on_prompt(item.label, z, prompt)
                bounds = positive_bounds(logits, canvas)
                _paint(segs[z], item.label, logits, canvas, bounds)
                if item.z_min < item.z_max:
                    own = propagation == "own"
                    item.remember(z, item.own_box(bounds) if own else _litemedsam_box(item.label, logits, canvas))
            done += 1
            if progress is not None:
                progress(done, total)
    return segs if is_volume else segs[0]


@dataclass
class _Object:
    """One box on its way through the slices; z in whole slices, both ends taken."""

    label: int
    z_min: int
    z_mid: int
    z_max: int
    given_box: Float32Array  # (4,) on the grid
    box_bounds: Bounds  # grid pixels that the given box's native pixels cover
    _last_box: Float32Array | None = None
    _middle_box: Float32Array | None = None

    def prompt(self, z: int) -> Float32Array:
        """Return the box for slice z, after the slices before it were remembered."""
        if z == self.z_mid:
            return self.given_box
        box = self._middle_box if z == self.z_mid - 1 else self._last_box
        return self.given_box if box is None else box

    def own_box(self, bounds: Bounds | None) -> Float32Array | None:
        """Return the box around the object's low-resolution mask, inside of the given one; None where there is none."""
        if bounds is None:
            return None
        x_first, y_first, x_limit, y_limit = self.box_bounds
        box = grow_bounds(bounds, BOX_MARGIN, x_limit, y_limit, x_first, y_first)
        return box if (box[:2] < box[2:]).all() else None

    def remember(self, z: int, box: Float32Array | None) -> None:
        """Take the box around slice z's mask, None for an empty mask."""
        self._last_box = box
        if z == self.z_mid:
            self._middle_box = box


class _SliceEncoder:
    """Encodes slices in the order of a sweep and keeps what a later sweep needs, within a byte budget."""

    def __init__(
        self,
        slices: UInt8Array,
        backend: Backend,
        scheme: Scheme,
        size: int,
        batch: int,
        budget_bytes: int,
        shared: set[int],
    ) -> None:
        self.slices, self.backend, self.scheme, self.size = slices, backend, scheme, size
        self.batch, self.budget_bytes = batch, budget_bytes
        self.shared = shared
        self.kept: dict[int, FloatArray] = {}

    def embeddings(self, order: list[int]) -> Iterator[tuple[int, FloatArray]]:
        """Yield (z, embedding) in the given order."""
        for start in range(0, len(order), self.batch):
            group = order[start : start + self.batch]
            missing = [z for z in group if z not in self.kept]
            fresh: dict[int, FloatArray] = {}
            if missing:
                images = np.stack([prepare_image(self.slices[z], self.scheme, self.size) for z in missing])
                fresh = dict(zip(missing, self.backend.encode(images), strict=True))
            for z in group:
                if z in self.kept:  # this is the second sweep, nobody needs it again
                    yield z, self.kept.pop(z)
                    continue
                if z in self.shared and self.budget_bytes >= fresh[z].nbytes:
                    self.shared.discard(z)
                    self.budget_bytes -= fresh[z].nbytes
                    self.kept[z] = fresh[z].copy()  # a backend may use its buffer again
                yield z, fresh[z]


def _paint(segs: UInt16Array, label: int, logits: Float32Array, canvas: Canvas, bounds: Bounds | None) -> None:
    """Write an object's label into its slice of segs (H, W), wherever its mask is and no larger label stands.

    Later boxes overwrite earlier ones, so a pixel's label is the largest one, in whatever order the sweeps come by: no
    mask has to be kept.
    """
    for rows, columns, mask in native_blocks(logits, canvas, bounds):
        labels = segs[rows, columns]
        np.maximum(labels, mask * np.uint16(label), out=labels)


def _litemedsam_box(label: int, logits: Float32Array, canvas: Canvas) -> Float32Array | None:
    """Return the box around the native mask, filled with its label and resized by area."""
    # The original's 8-bit map overflows past 255 objects; those get 16 bits.
    filled = mask_to_native(logits, canvas).astype(np.uint8 if label < 256 else np.uint16) * label
    resized = resize_longest_side(filled, canvas.size)
    return box_from_mask(resized, BOX_MARGIN, limit=canvas.size)


def _by_slice(pairs: Iterator[tuple[int, _Object]]) -> dict[int, list[_Object]]:
    present: dict[int, list[_Object]] = {}
    for z, item in pairs:
        present.setdefault(z, []).append(item)
    return present


def _as_slices(image: AnyArray, boxes: AnyArray) -> tuple[UInt8Array, bool]:
    """Return uint8 slices (D, H, W) or (1, H, W[, C]), and whether they are a volume, as the boxes say."""
    columns = boxes.shape[-1] if boxes.ndim == 2 else 0
    if (boxes.size and columns not in (4, 6)) or boxes.dtype.kind not in "iuf":
        raise ValueError(f"got boxes {boxes.dtype} {boxes.shape}; numbers of shape (N, 4) or (N, 6) are required")
    if not image.size:
        raise ValueError(f"got an empty image of shape {image.shape}")
    is_colour = image.ndim == 3 and image.shape[2] in (1, 3) and columns != 6
    is_volume = image.ndim == 3 and not is_colour and (columns == 6 or not boxes.size)
    if is_volume:
        return to_uint8(image), True
    if ((image.ndim == 2 or is_colour) and columns != 6) or (image.ndim == 2 and not boxes.size):
        return to_uint8(image)[None], False
    raise ValueError(
        f"got an image of shape {image.shape} with boxes of shape {boxes.shape}; (H, W) or (H, W, 3) with "
        "(N, 4), or (D, H, W) with (N, 6) is required"
    )


def _as_boxes_3d(boxes: AnyArray) -> Float64Array:
    """Return float64 (N, 6); an image's boxes get the slice 0 alone."""
    if not boxes.size:
        return np.zeros((0, 6))
    if len(boxes) > LARGEST_LABEL:
        raise ValueError(f"got {len(boxes)} boxes; segs hold at most {LARGEST_LABEL} labels")
    wide = boxes.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the boxes hold NaN or infinite coordinates; finite ones are required")
    return wide if wide.shape[1] == 6 else np.insert(wide, [2, 4], 0.0, axis=1)


def _plan_objects(boxes: Float64Array, depth: int, canvas: Canvas, z_max_inclusive: bool) -> list[_Object]:
    grid_boxes = boxes_to_grid(boxes[:, [0, 1, 3, 4]], canvas.height, canvas.width, canvas.size)
    ends = np.ceil((boxes[:, [3, 4]] + 1) * canvas.scale) - 1
    ends = np.minimum(ends, [canvas.resized_width - 1, canvas.resized_height - 1])
    objects = []
    for label, (box, grid_box, end) in enumerate(zip(boxes, grid_boxes, ends, strict=True), start=1):
        z_min = max(int(box[2]), 0)
        z_written = min(int(box[5]), depth - 1 if z_max_inclusive else depth)
        z_max = z_written if z_max_inclusive else z_written - 1
        if z_min > z_max:
            raise ValueError(
                f"box {label} goes from z={box[2]:g} to {box[5]:g} (z_max_inclusive={z_max_inclusive}); "
                f"at least one slice of the volume's {depth} is required"
            )
        # The middle of the range as written, as both original scripts take it.
        z_mid = int((z_written - z_min) / 2 + z_min)
        box_bounds = int(grid_box[0]), int(grid_box[1]), int(end[0]), int(end[1])
        objects.append(_Object(label, z_min, z_mid, z_max, grid_box, box_bounds))
    return objects
