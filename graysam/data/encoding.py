"""Encode samples as the bytes of their three members: PNG image, RLE masks and JSON metadata."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import find_objects

from graysam.data.shards import ShardError
from graysam.imaging.canvas import resize_longest_side

MAX_KEY_BYTES = 80  # with a suffix well below the 100 bytes of a USTAR member name

_PNG_PARAMETERS = [cv2.IMWRITE_PNG_COMPRESSION, 6]


@dataclass(frozen=True)
class EncodedSample:
    """The members of one sample, and its group and modality for the index."""

    key: str
    group: str
    modality: str
    png: bytes
    rle: bytes
    meta: bytes


def encode_sample(
    key: str,
    image: NDArray[np.uint8],
    masks: Mapping[int, NDArray[np.bool_]],
    *,
    group: str,
    modality: str,
    meta: Mapping[str, Any],
) -> EncodedSample:
    """Encode one image and the mask of each of its labels.

    Args:
        key: the sample's name, without dots and slashes.
        image: uint8 (H,W), or (H,W,3) RGB.
        masks: bool (H,W) masks by label (1 or more), which may overlap; empty for the split `unlabelled`.
        group: what the balanced sampler counts.
        modality: e.g. `CT`.
        meta: plain JSON content; group and modality are added to it.

    Raises:
        ShardError: an unsuitable key, a mask that is empty or of another shape, or a label below 1.
    """
    if not 1 <= len(key.encode()) <= MAX_KEY_BYTES or set("./\\") & set(key):
        raise ShardError(f"key {key!r}; required: 1 to {MAX_KEY_BYTES} bytes without dots and slashes; rename the file")
    rles = {}
    for label, mask in sorted(masks.items()):
        if label < 1 or mask.shape != image.shape[:2] or not mask.any():
            raise ShardError(
                f"sample {key}, label {label}: mask of shape {mask.shape} with {int(mask.sum())} pixels; "
                f"required: label >= 1 and a non-empty mask of the image's {image.shape[:2]}"
            )
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        rles[str(label)] = {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    ok, png = cv2.imencode(".png", stored, _PNG_PARAMETERS)
    if not ok:
        raise ShardError(f"OpenCV could not encode an image of shape {image.shape}, dtype {image.dtype} as PNG")
    return EncodedSample(
        key=key,
        group=group,
        modality=modality,
        png=png.tobytes(),
        rle=_to_json(rles),
        meta=_to_json({**meta, "group": group, "modality": modality}),
    )


def encode_labelled_image(
    key: str,
    image: NDArray[np.uint8],
    label_maps: Sequence[NDArray[Any]],
    *,
    size: int,
    group: str,
    modality: str,
    meta: Mapping[str, Any],
) -> tuple[EncodedSample | None, int]:
    """Resize an image and its labels and encode them as a sample.

    Args:
        key, group, modality, meta: as for `encode_sample`; the original size and the boxes are added to meta.
        image: uint8 (H,W), or (H,W,3) RGB, stored as one channel where its three are equal.
        label_maps: integers (H,W), 0 (background) to 65535; each label occurs in one map, and objects that overlap
            are in different maps.
        size: longest side of the stored image in pixels.

    Returns:
        The sample, None when no label survives, and the number of labels that vanished in resizing.
    """
    resized = resize_for_storage(image, size)
    grid = (resized.shape[1], resized.shape[0])
    masks: dict[int, NDArray[np.bool_]] = {}
    boxes_xyxy: dict[str, list[int]] = {}
    labels = 0
    for label_map in label_maps:
        labels += int(np.count_nonzero(np.unique(label_map)))
        # Resized as a whole map: hundreds of full-size masks of a 12-megapixel image would fill the memory.
        small = cv2.resize(label_map.astype(np.uint16), grid, interpolation=cv2.INTER_NEAREST_EXACT)
        masks |= {int(label): small == label for label in np.unique(small) if label}
        for label, place in enumerate(find_objects(label_map), start=1):
            if place is not None and label in masks:
                rows, columns = place
                boxes_xyxy[str(label)] = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    if not masks:
        return None, labels
    # Prediction takes boxes from native pixels to the grid; a box of the resized mask may differ by a native pixel.
    meta = {**meta, "original_size": list(image.shape[:2]), "boxes_xyxy": boxes_xyxy}
    return encode_sample(key, resized, masks, group=group, modality=modality, meta=meta), labels - len(masks)


def resize_for_storage(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize uint8 (H,W) or (H,W,3) to the longest side `size`, as one channel where its three are equal."""
    if image.ndim == 3 and (image == image[:, :, :1]).all():
        image = np.ascontiguousarray(image[:, :, 0])
    return np.asarray(resize_longest_side(image, size), dtype=np.uint8)


def _to_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
