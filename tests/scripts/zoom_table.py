"""Score models with and without zoom, by data set and by size of the boxes: the tables of docs/results/zoom.md.

python -m tests.scripts.zoom_table TRAIN_NPZ ... --sources PancreasCT,SPIDER --zooms off,1.4,2,auto --json out.json

Cases are training NPZ (imgs, gts, and spacing of volumes) named <Modality>_<Dataset>_<case>.npz, or a folder `imgs`
beside `gts`. Each label's tight box is a prompt, and all prompts of a case are given at once. DSC and NSD are those of
`graysam.metrics.challenge` for each object alone, averaged over the objects of a case, then over the cases of a source;
intervals are bootstrapped over cases.
"""

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from graysam.imaging.views import full_view
from graysam.imaging.zoom import load_zoom
from graysam.inference.axes import load_walk
from graysam.inference.predictor import Predictor
from graysam.inference.segmentation import Segmentation
from graysam.io.image import Image
from graysam.metrics.aggregation import estimate
from graysam.metrics.challenge import case_metrics

SIZES = (8, 16, 32, 64, 128, 10**9)  # longer side of a box on the full view's grid, px
METRICS = ("DSC", "NSD", "contour NSD")


def main() -> None:
    parser = argparse.ArgumentParser(description="Score zooms and walks by source and by size of the boxes.")
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="training NPZ, searched recursively")
    add("--sources", default="", help="data sets, separated by commas (default: all)")
    add("--without", default="", help="data sets to leave out, separated by commas")
    add("--kind", choices=("images", "volumes"), default="images")
    add("--model", default="graysam_l0")
    add("--zooms", default="off,auto", help="separated by commas")
    add("--walks", default="slices", help="separated by commas; each is combined with each zoom")
    add("--per-source", type=int, default=10**6, help="cases of a source, drawn with seed 0 (default: all)")
    add("--loosen", type=float, default=0.0, help="move each side of a box outwards by this part of its length")
    add("--threads", type=int, default=2)
    add("--json", type=Path, help="file for the rows, one an object and setting")
    arguments = parser.parse_args()
    predictor = Predictor(arguments.model, threads=arguments.threads)
    settings = [(zoom, walk) for walk in arguments.walks.split(",") for zoom in arguments.zooms.split(",")]
    rows: list[dict[str, Any]] = []
    for path in tqdm(choose(arguments), file=sys.stderr):
        rows += score(path, predictor, settings, arguments.loosen)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows))
    show(rows, [" ".join(setting) for setting in settings])


def choose(arguments: argparse.Namespace) -> list[Path]:
    """Return the cases of the wanted sources and kind, at most so many a source."""
    wanted, unwanted = (set(filter(None, text.split(","))) for text in (arguments.sources, arguments.without))
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in arguments.folders:
        for path in sorted(folder.rglob("*.npz")):
            if path.parent.name != "gts" and (not wanted or source(path).split("_")[1] in wanted):
                found[source(path)].append(path)
    rng, cases = np.random.default_rng(0), []
    for name, paths in found.items():
        if name.split("_")[1] not in unwanted:
            of_kind = [path for path in paths if (read(path)[1].ndim == 3) == (arguments.kind == "volumes")]
            cases += [of_kind[i] for i in rng.permutation(len(of_kind))[: arguments.per_source]]
    return cases


def source(path: Path) -> str:
    """Return modality and data set of a case, e.g. CT_PancreasCT."""
    fields = path.stem.removeprefix("2DBox_").removeprefix("3DBox_").split("_")
    return f"{fields[0]}_{fields[1].split('-')[0]}"


def read(path: Path) -> tuple[Image, np.ndarray]:
    """Return image and labels of a case."""
    with np.load(path, allow_pickle=False) as case:
        spacing = tuple(map(float, case["spacing"])) if "spacing" in case else None
        pixels = case["imgs"]
        gts = case.get("gts")
    if gts is None:
        with np.load(path.parents[1] / "gts" / path.name, allow_pickle=False) as truth:
            gts = truth["gts"]
    return Image(pixels, spacing, is_volume=gts.ndim == 3), gts


def score(
    path: Path, predictor: Predictor, settings: Sequence[tuple[str, str]], loosen: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each object and setting."""
    image, gts = read(path)
    labels = [label for label in np.unique(gts).tolist() if label]
    places = [np.argwhere(gts == label)[:, ::-1] for label in labels]
    boxes = np.array([[*place.min(0), *place.max(0)] for place in places], float)
    full = full_view(*image.grid[-2:], predictor.size)
    axes = gts.ndim
    margin = np.round(loosen * (boxes[:, axes:] - boxes[:, :axes] + 1))
    boxes[:, :axes] = np.maximum(boxes[:, :axes] - margin, 0)
    boxes[:, axes:] = np.minimum(boxes[:, axes:] + margin, np.array(gts.shape[::-1]) - 1)
    sides = (boxes[:, axes : axes + 2] - boxes[:, :2] + 1).max(axis=1) * full.canvas.scale
    for zoom, walk in settings:
        options = {"size": predictor.size, "zoom": load_zoom(zoom), "axes": load_walk(walk)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            started = time.perf_counter()
            found = Segmentation(image, boxes, predictor.backend, predictor.scheme, **options).masks()
            seconds = time.perf_counter() - started
        painted = np.zeros(gts.shape, np.uint16)
        for number, prompt in enumerate(found, start=1):
            painted[prompt.mask] = number
        for number, (label, prompt, side) in enumerate(zip(labels, found, sides, strict=True), start=1):
            metrics = case_metrics((gts == label).astype(np.uint8), prompt.mask.astype(np.uint8), image.spacing_mm)
            names = {"source": source(path), "case": path.stem, "label": label, "side": round(float(side), 2)}
            lost = not (painted == number).any()
            values = {"metrics": [round(100 * value, 3) for value in metrics], "lost": lost, "seconds": seconds}
            yield names | {"setting": f"{zoom} {walk}"} | values


def show(rows: Sequence[dict[str, Any]], settings: Sequence[str]) -> None:
    """Print the tables: by size, by source, and the differences from the first setting."""
    by_size: dict[int, list[dict[str, Any]]] = defaultdict(list)
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_size[next(size for size in SIZES if row["side"] <= size)].append(row)
        by_source[row["source"]].append(row)
    table = [_line(f"up to {size} px", by_size[size], settings, objects=True) for size in SIZES if by_size[size]]
    print(f"\nMean over objects: {' / '.join(METRICS)}\n")
    print(tabulate(table, ["box", "n", *settings], "github"))
    table = [_line(name, by_source[name], settings) for name in sorted(by_source)]
    macro = [np.mean([_case_means(part, setting).mean(0) for part in by_source.values()], 0) for setting in settings]
    table.append(["macro", len({row["case"] for row in rows}), *map(_numbers, macro)])
    print(f"\nMean over cases, then over sources: {' / '.join(METRICS)}\n")
    print(tabulate(table, ["source", "cases", *settings], "github"))
    print(f"\nDifference from {settings[0]}, with 95 % intervals over cases: DSC, contour NSD\n")
    table = []
    for name in sorted(by_source):
        base, line = _case_means(by_source[name], settings[0]), []
        for setting in settings[1:]:
            change = _case_means(by_source[name], setting) - base
            line.append("; ".join(_interval(change[:, i]) for i in (0, 2)))
        table.append([name, len(base), *line])
    print(tabulate(table, ["source", "cases", *settings[1:]], "github"))
    table = []
    for setting in settings:
        part = [row for row in rows if row["setting"] == setting]
        seconds = {row["case"]: row["seconds"] for row in part}
        table.append([setting, sum(row["lost"] for row in part), len(part), np.mean(list(seconds.values()))])
    print(f"\n{tabulate(table, ['setting', 'labels lost', 'of', 'seconds a case'], 'github', floatfmt='.3f')}")


def _line(name: str, rows: Sequence[dict[str, Any]], settings: Sequence[str], objects: bool = False) -> list[Any]:
    if objects:
        values = [[row["metrics"] for row in rows if row["setting"] == setting] for setting in settings]
    else:
        values = [_case_means(rows, setting).tolist() for setting in settings]
    return [name, len(values[0]), *(_numbers(np.mean(value, 0)) for value in values)]


def _case_means(rows: Sequence[dict[str, Any]], setting: str) -> np.ndarray:
    cases: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        if row["setting"] == setting:
            cases[row["case"]].append(row["metrics"])
    return np.array([np.mean(values, 0) for values in cases.values()])


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _interval(values: np.ndarray) -> str:
    found = estimate([values.tolist()])
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"


if __name__ == "__main__":
    main()
