"""
===================
One box on a volume
===================

Segment the brain stem in a T1-weighted MR volume: one box around all of its slices, one mask of the volume back.

The volume is the MNI152 template, the average of 152 heads, which is part of the package nilearn (extra ``demo``)::

    pip install '.[demo]'
    python examples/segment_volume.py [PICTURE.png]
"""

import sys
from importlib.metadata import distribution
from pathlib import Path

import nibabel
import numpy as np

import graysam
from graysam.imaging.drawing import draw_panel, write_picture

picture_path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")

# %%
# Read the NIfTI file. graysam segments arrays (z, y, x) slice by slice along z, so turn the axes: z from the feet to
# the head, and in each slice the face at the top, as radiologists look at it. The voxels are uint8; an MR of other
# numbers is scaled by its minimum and maximum, and a CT should be windowed before.
name = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
nifti = nibabel.as_closest_canonical(nibabel.load(str(distribution("nilearn").locate_file(name))))
volume = np.ascontiguousarray(np.asanyarray(nifti.dataobj)[::-1, ::-1].T)

# %%
# Draw one box around the brain stem, from the medulla to the midbrain: x_min, y_min, z_min, x_max, y_max, z_max, both
# ends included. The middle slice is segmented within the box; from there on, up and down, each slice within the box
# around the mask of the slice before.
boxes = np.array([[75, 110, 14, 121, 150, 50]])
predictor = graysam.Predictor("graysam_l0")
mask = predictor.predict(volume, boxes)
print(f"the brain stem has {np.count_nonzero(mask) / 1000:.1f} ml")  # voxels of 1 mm

# %%
# Store the labels as ``segs`` of an NPZ, the format of the challenge.
graysam.write_mask(picture_path.with_name(f"{picture_path.stem}_mask.npz"), mask)

# %%
# Draw medulla, pons and midbrain beside each other: the box in dashes, the outline of the mask in orange.
panels = [draw_panel(volume[z], boxes[:, [0, 1, 3, 4]], mask[z]) for z in (18, 32, 48)]
write_picture(picture_path, np.hstack(panels))
print(f"wrote {picture_path}")
