"""Count lost labels, encodes, seconds and memory of small and many boxes, with and without zoom.

python -m tests.scripts.zoom_cost --model graysam_l0 --threads 2

Each line is a process of its own, so that the peak of memory is that line's. The pictures are made here: 200 boxes of
7 px in a picture of 2,000 px, 241 boxes in one of 1,000 px, and 6 or 241 objects in a volume of 287 x 512 x 512 voxels.
"""

import argparse
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
from tabulate import tabulate

from graysam.inference.predictor import Predictor

CASES = ("200 boxes of 7 px", "241 boxes", "volume, 6 objects", "volume, 241 objects")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of zoom and walks.")
    parser.add_argument("--model", default="graysam_l0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "ZOOM", "WALK"), help="print this line alone")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(*measure(arguments.model, arguments.threads, *arguments.one), sep="\t")
        return
    lines = []
    for case in CASES:
        for zoom, walk in (("off", "slices"), ("auto", "slices"), *([("auto", "auto")] if "volume" in case else [])):
            options = ["--model", arguments.model, "--threads", str(arguments.threads), "--one", case, zoom, walk]
            done = subprocess.run(
                [sys.executable, "-m", "tests.scripts.zoom_cost", *options], capture_output=True, text=True, check=True
            )
            lines.append([case, zoom, walk, *done.stdout.strip().split("\t")])
    print(tabulate(lines, ["case", "zoom", "walk", "labels lost", "encodes", "seconds", "peak MB"], "github"))


def measure(model: str, threads: int, case: str, zoom: str, walk: str) -> tuple[int, int, float, int]:
    """Return labels without a pixel, encodes, seconds, and the peak of memory in MB."""
    warnings.simplefilter("ignore")
    image, boxes = {CASES[0]: lambda: disks(2000, 200, 3), CASES[1]: lambda: disks(1000, 241, 9)}.get(
        case, lambda: balls(int(case.split()[1]))
    )()
    predictor = Predictor(model, threads=threads, zoom=zoom, walk=walk)
    encode, calls = predictor.backend.encode, []
    predictor.backend.encode = lambda images: (calls.append(len(images)), encode(images))[1]  # type: ignore[method-assign]
    started = time.perf_counter()
    labels = predictor.predict(image, boxes)
    seconds = time.perf_counter() - started
    lost = len(boxes) - len(np.setdiff1d(np.unique(labels), [0]))
    return lost, sum(calls), round(seconds, 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def disks(side: int, count: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a grey picture with dark disks, as of nuclei, on a jittered lattice, and their boxes."""
    rng = np.random.default_rng(0)
    image = rng.normal(180, 6, (side, side))
    pitch = side // int(np.ceil(count**0.5))
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = rows**2 + columns**2 <= radius**2
    boxes = []
    for index in range(count):
        y, x = (pitch // 2 + pitch * place for place in divmod(index, side // pitch))
        y, x = (int(v + rng.integers(-pitch // 4, pitch // 4 + 1)) for v in (y, x))
        image[y - radius : y + radius + 1, x - radius : x + radius + 1][disk] -= 90
        boxes.append([x - radius, y - radius, x + radius, y + radius])
    return image.clip(0, 255).astype(np.uint8), np.array(boxes)


def balls(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume of 287 x 512 x 512 voxels with bright balls, large where there are few, and their boxes."""
    rng = np.random.default_rng(0)
    volume = rng.integers(60, 90, (287, 512, 512), np.uint8)
    radius = 60 if count < 10 else 10
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    ball = z**2 + y**2 + x**2 <= radius**2
    boxes = []
    for _ in range(count):
        centre = [int(rng.integers(radius, side - radius)) for side in volume.shape]
        volume[tuple(slice(c - radius, c + radius + 1) for c in centre)][ball] += 80
        low, high = ([c + sign * radius for c in centre[::-1]] for sign in (-1, 1))
        boxes.append(low + high)
    return volume, np.array(boxes)


if __name__ == "__main__":
    main()
