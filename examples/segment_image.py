"""
========================
One box on a colour image
========================

Segment the optic disc in a photograph of the retina: one box around the disc, one mask back.

The photograph is part of scikit-image, which comes with graysam, so nothing is downloaded::

    python examples/segment_image.py [PICTURE.png]
"""

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np

import graysam
from graysam.imaging.drawing import draw_panel, write_picture

picture_path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png")

# %%
# Read the image. The result holds the pixels as they are stored, here RGB of 1411 x 1411, and what the file says about
# them. PNG, JPEG, TIFF, BMP and the challenge's NPZ are read in the same way.
image = graysam.read_image(str(files("skimage") / "data" / "retina.jpg"))

# %%
# Open the model. ``graysam_l0`` comes with graysam as an int8 model that OpenVINO runs on the CPU. Opening it takes
# longer than segmenting an image, so keep the predictor for all your images.
predictor = graysam.Predictor("graysam_l0")
print(predictor.description)

# %%
# Draw a box around the disc: x_min, y_min, x_max, y_max in pixels of the image, both ends included. It may be a few
# pixels too large. More boxes give more objects: label k of the mask belongs to the k-th box.
boxes = np.array([[110, 530, 325, 770]])
mask = predictor.predict(image, boxes)
print(f"the optic disc covers {np.count_nonzero(mask)} of {mask.size} pixels")

# %%
# Store the labels as a 16-bit PNG; with ``like`` the mask must fit the image.
graysam.write_mask(picture_path.with_name(f"{picture_path.stem}_mask.png"), mask, like=image)

# %%
# Draw the surroundings of the box: the box in dashes, the outline of the mask in orange.
write_picture(picture_path, draw_panel(image.pixels, boxes, mask))
print(f"wrote {picture_path}")
