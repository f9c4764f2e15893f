"""Packing a folder of images that have no masks, for distillation: shards like any others, but without labels."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.data.packing import PackedCase, PackReport, Subject, as_stored, in_order
from graysam.data.shard_writing import ShardWriter, building, check_output, encode_unlabelled
from graysam.imaging.canvas import to_uint8
from graysam.system.terminal import progress

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"))
TOP_KIND = "images"  # group of what lies in the folder itself


def pack_images(
    input_dir: str | Path,
    output_dir: str | Path,
    *,
    size: int,
    samples_per_shard: int,
    workers: int = 1,
    overwrite: bool = False,
) -> PackReport:
    """Pack every image below a folder into shards; the first folder below it is an image's group and modality.

    input_dir: PNG, JPEG, BMP or TIFF, grey or colour, 8-bit or scaled to it by its own minimum and maximum; an alpha
    channel is dropped. size: longest side in pixels; smaller images are enlarged as in prediction. Bad files are left
    out and reported. The output appears complete or not at all.

    Raises:
        ValueError: no images below input_dir, two that give the same key, an output folder that is in use, or no image
            that can be read.
    """
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    check_output(output_dir, overwrite)
    files = _list_images(input_dir)
    bad: dict[str, str] = {}
    with (
        building(output_dir, replace_existing=overwrite) as folder,
        ShardWriter(folder, samples_per_shard) as writer,
    ):
        job = partial(_pack_image, folder=input_dir, size=size)
        for image in progress(in_order(job, files, workers), "packing", len(files)):
            if image.error is not None:
                bad[image.file] = image.error
            for sample in image.samples:
                writer.write(sample)
        if not len(writer):
            raise ValueError(f"{input_dir}: none of {len(files)} images could be read; the first: {next(iter(bad))}")
        manifest = writer.finish(
            ["unlabelled"] * len(writer),
            {
                "source": "images",
                "packing": {"size": size, "samples_per_shard": samples_per_shard},
                "split": {"by": "nothing: there are no masks", "groups_without_val": []},
                "cases": {"found": len(files), "bad": bad},
            },
        )
    return PackReport(manifest, bad)


def _pack_image(file: str, folder: Path, size: int) -> PackedCase:
    try:
        image = _read_image(folder / file)
        kind = _kind(file)
        sample = encode_unlabelled(
            _key(file),
            as_stored(image, size),
            group=f"unlabelled_{kind}",
            modality=kind,
            meta={
                "case_id": file,
                "subject_id": file,
                "dataset": "unlabelled",
                "slice_index": None,
                "spacing_mm_zyx": None,
                "original_size": [int(n) for n in image.shape[:2]],
            },
        )
    except (OSError, ValueError, cv2.error) as error:
        return PackedCase(file, error=" ".join(str(error).split()))
    return PackedCase(file, Subject("unlabelled", file), (sample,))


def _read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as uint8 (H,W), or (H,W,3) RGB."""
    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim not in (2, 3):
        raise ValueError("not an image that OpenCV can read; required: PNG, JPEG, BMP or TIFF")
    pixels: NDArray[Any] = stored
    if pixels.ndim == 3:
        pixels = pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, 2::-1]  # without alpha
    return np.ascontiguousarray(to_uint8(pixels))


def _kind(file: str) -> str:
    parts = Path(file).parts
    return re.sub(r"[^\w-]", "-", parts[0]) if len(parts) > 1 else TOP_KIND


def _key(file: str) -> str:
    return re.sub(r"[^\w-]", "-", file)


def _list_images(folder: Path) -> list[str]:
    """Images below a folder, relative to it, sorted; ValueError where there are none or two would get the same key."""
    if not folder.is_dir():
        raise ValueError(f"input_dir {folder} is no folder; required: a folder of images, a subfolder each kind")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    files = sorted(path.relative_to(folder).as_posix() for path in paths if not path.name.startswith("."))
    if not files:
        raise ValueError(f"input_dir {folder} holds no image; required: {', '.join(sorted(IMAGE_SUFFIXES))}")
    by_key: dict[str, str] = {}
    for file in files:
        other = by_key.setdefault(_key(file), file)
        if other != file:
            raise ValueError(f"{folder}: {other} and {file} would get the same key; rename one")
    return files
