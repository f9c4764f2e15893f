"""The embedded default: small shards of real MR, the MNI152 template inside the pip package nilearn.

One brain, averaged from 152 people: it shows that the pipeline learns, and nothing more. Each of the three
groups, axial, coronal and sagittal slices, holds out a slab of its own; the held-out slices of one group are
still crossed by training slices of the other two. The template is exactly symmetric, so sagittal slices come
from one half only: the other half's are the same pictures again, and would put the held-out ones into
training.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.data.shard_writing import GRID_SIZE, ShardWriter, check_output, encode_image
from graysam.data.shards import MANIFEST_NAME, load_manifest
from graysam.system.files import replacing_folder, sha256_of

LABELS = {1: "grey matter", 2: "white matter", 3: "whole brain"}  # 3 holds 1 and 2
PLANES = ("axial", "coronal", "sagittal")  # by the axis z, y, x they step along

_MIN_PIXELS = 50  # smaller objects are slivers at the brain's ends


def build_demo(output_dir: str | Path, *, stride: int, slab: int, gap: int, overwrite: bool = False) -> dict[str, Any]:
    """Build the demo's shards where they are missing; safe for two processes at once.

    Args:
        output_dir: of the shards; another demo there is replaced.
        stride: step between slices; half of it for the sagittal ones, of which only one half of the brain is used.
        slab: central slices of each direction that are held out.
        gap: slices on either side of the slab that belong to neither split; at least 10.
        overwrite: whether other shards in output_dir are replaced.

    Returns:
        The manifest.

    Raises:
        ValueError: other parameters, a folder in use, or no nilearn.
    """
    if stride < 1 or slab < stride or gap < 10:
        raise ValueError(
            f"demo: stride {stride}, slab {slab}, gap {gap}; required: stride >= 1, slab >= stride, gap >= 10"
        )
    output_dir = Path(output_dir)
    # A higher version rebuilds what an older graysam built.
    settings = {"stride": stride, "slab": slab, "gap": gap, "version": 2, "size": GRID_SIZE, "min_pixels": _MIN_PIXELS}
    present = load_manifest(output_dir) if (output_dir / MANIFEST_NAME).is_file() else {}
    if present.get("demo") == settings and not overwrite:
        return present
    overwrite = overwrite or "demo" in present
    check_output(output_dir, overwrite)
    try:
        with replacing_folder(output_dir, last=MANIFEST_NAME, replace_existing=overwrite) as folder:
            return _write(folder, settings)
    except FileExistsError:  # another process was faster
        present = load_manifest(output_dir)
        if present.get("demo") != settings:
            raise
        return present


def _write(folder: Path, settings: dict[str, int]) -> dict[str, Any]:
    image, label_maps = load_template()
    splits: list[str] = []
    held_out: dict[str, list[int]] = {}
    with ShardWriter(folder, samples_per_shard=1000) as writer:
        for axis, plane in enumerate(PLANES):
            for index, split in _plan(label_maps[2] != 0, axis, settings["stride"], settings["slab"], settings["gap"]):
                maps = [_slice(label_map, axis, index) for label_map in label_maps]
                maps = [label_map for label_map in maps if np.count_nonzero(label_map) >= _MIN_PIXELS]
                meta = {
                    "case_id": f"MR_MNI152_{plane}",
                    "subject_id": "template",
                    "dataset": "MNI152",
                    "slice_index": index,
                    "spacing_mm_zyx": [1.0, 1.0, 1.0],
                    "group": f"MR_{plane}",
                    "modality": "MR",
                }
                key = f"{meta['case_id']}_{index:04d}"
                sample, _ = encode_image(key, _slice(image, axis, index), maps, meta, size=GRID_SIZE)
                if maps and sample is not None:
                    writer.write(sample)
                    splits.append(split)
                    if split == "val":
                        held_out.setdefault(sample.group, []).append(index)
        source = {path.name: sha256_of(path) for path in template_paths().values()}
        content = {
            "source": "demo",
            "demo": settings,
            "template": {"package": "nilearn", "sha256": source},
            "labels": {str(label): name for label, name in LABELS.items()},
            "split": {"by": "slab", "val_slices": held_out, "groups_without_val": []},
        }
        return writer.finish(splits, content)


def _plan(brain: NDArray[np.bool_], axis: int, stride: int, slab: int, gap: int) -> Iterator[tuple[int, str]]:
    """Yield slice indices along an axis and their split; the slices of the gap are in neither."""
    filled = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = int(filled[0]), int(filled[-1])
    if PLANES[axis] == "sagittal":
        last = (brain.shape[axis] - 1) // 2  # the midline; beyond it the mirror image begins
        stride = max(1, stride // 2)
    slab_first = (first + last + 1 - slab) // 2
    slab_last = slab_first + slab - 1
    for index in range(first, last + 1):
        if slab_first <= index <= slab_last and (index - slab_first) % stride == 0:
            yield index, "val"
        elif not slab_first - gap <= index <= slab_last + gap and (index - first) % stride == 0:
            yield index, "train"


def _slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Return a slice of a (z,y,x) volume as radiologists see it: coronal and sagittal ones with the head up."""
    picture: NDArray[Any] = volume.take(index, axis=axis)
    return picture if axis == 0 else picture[::-1]


def load_template() -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Read the template: the T1 image, and one label map each for LABELS, all uint8 (z,y,x).

    z runs from inferior to superior, y from anterior to posterior, x from the patient's right to left; 1 mm
    voxels. The image's percentiles 0.5 and 99.5 over voxels above 0 go to 0 and 255, and voxels of 0 stay 0.
    Matter is where its probability is above 0.5, the brain where T1 is above 0.2 of its maximum, as in
    nilearn's `load_mni152_brain_mask`.
    """
    import nibabel  # comes with nilearn

    volumes = {}
    for kind, path in template_paths().items():
        ras = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
        volumes[kind] = np.ascontiguousarray(ras[::-1, ::-1].T, dtype=np.float32)
        # The matter maps are probabilities stored as 0..255.
        volumes[kind] /= max(float(volumes[kind].max()), 1e-8)
    t1 = volumes["t1"]
    low, high = np.percentile(t1[t1 > 0], (0.5, 99.5))
    image = (np.clip((t1 - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
    masks = [volumes["gm"] > 0.5, volumes["wm"] > 0.5, t1 > 0.2]
    return image, [mask * np.uint8(label) for label, mask in zip(LABELS, masks, strict=True)]


def template_paths() -> dict[str, Path]:
    """Return where nilearn keeps its files; nilearn, which imports scikit-learn and pandas, is not imported."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.origin:
        raise ValueError("the demo's brain comes with the package nilearn, which is missing; pip install '.[demo]'")
    folder = Path(spec.origin).parent / "datasets" / "data"
    return {kind: folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")}
