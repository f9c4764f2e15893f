"""Where the surface of a mask lies and how large it is, by marching cubes and marching squares.

A surface is described by the code of every 2x2(x2) neighbourhood of pixel (voxel) centres: which of its
corners lie in the mask. A code's area is that of polygons through the middles of the cut edges. NumPy only.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

_CORNERS = tuple(product((0, 1), repeat=3))  # (z,y,x); the index is the bit
_SQUARES = tuple(  # the cube's sides as cycles of four corners
    tuple(axis_bit | (a << ((axis + 1) % 3)) | (b << ((axis + 2) % 3)) for a, b in ((0, 0), (0, 1), (1, 1), (1, 0)))
    for axis in range(3)
    for axis_bit in (0, 1 << axis)
)


def neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the code of every neighbourhood of 2 pixels a side, background being all around.

    mask: bool (H,W) or (D,H,W); returns uint8, one longer on each axis: [i,j] is the neighbourhood that ends
    in pixel [i,j]. The corner at offset (z,y,x) sets bit 4z + 2y + x; an image's codes are those of a volume
    whose z=1 half is empty.
    """
    codes = np.pad(mask.view(np.uint8), 1)
    for axis, shift in zip(reversed(range(mask.ndim)), (1, 2, 4), strict=False):
        codes = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis(codes[:-1] | codes[1:] << np.uint8(shift), 0, axis)
    return np.ascontiguousarray(codes)


def surface_areas(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return each 2x2x2 code's surface area in mm^2, float64 (256,); spacing_mm is (z, y, x)."""
    z, y, x = spacing_mm
    # A vector area's component along an axis scales with the spacings of the two other axes.
    return np.asarray(np.linalg.norm(_triangle_areas() * (y * x, z * x, z * y), axis=2).sum(axis=1))


@lru_cache(maxsize=1)
def face_areas() -> NDArray[np.float64]:
    """Return each 2x2 code's area in px^2, float64 (16,), on a face of a one-slice volume of spacing 1."""
    return surface_areas((1, 1, 1))[:16]


@lru_cache(maxsize=1)
def contour_lengths() -> NDArray[np.float64]:
    """Return the contour's length in px, float64 (16,), in each 2x2 code.

    Marching squares: a lone corner is cut off by half a diagonal, two of a side by 1, two opposite ones by
    two cuts.
    """
    corner = np.sqrt(0.5)
    lengths = np.zeros(16)
    for code in range(1, 15):
        lengths[code] = {1: corner, 3: corner}.get(code.bit_count(), 2 * corner if code in (6, 9) else 1.0)
    return lengths


@lru_cache(maxsize=1)
def _triangle_areas() -> NDArray[np.float64]:
    """Vector areas (z,y,x), float64 (256,4,3), of the triangles of each code at spacing 1; unused ones are 0.

    The rules that reproduce the official areas of all 256 codes: the smaller of the two sets of corners is
    the one cut off, so on a side whose opposite corners differ its corners stay apart; and a polygon that is
    not flat is split into the fan (over its starting vertex) of the largest area at spacing 1.
    """
    table = np.zeros((256, 4, 3))
    for code in range(256):
        cut_off = code if code.bit_count() <= 4 else 255 - code
        triangles = [triangle for loop in _polygons(cut_off) for triangle in _largest_fan(loop)]
        table[code, : len(triangles)] = np.reshape(triangles, (-1, 3))
    return table


def _polygons(code: int) -> Iterator[NDArray[np.float64]]:
    """Closed polygons (N,3) through the cut edges' middles that part a code's corners from the rest."""
    joined: dict[frozenset[int], list[frozenset[int]]] = {}
    for square in _SQUARES:
        inside = [corner for corner in square if code >> corner & 1]
        if len(inside) == 2 and (square.index(inside[0]) - square.index(inside[1])) % 2 == 0:
            cuts = [_cut_edges(square, {corner}) for corner in inside]  # opposite corners, each on its own
        else:
            cuts = [_cut_edges(square, set(inside))]
        for cut in cuts:
            for a, b in combinations(cut, 2):
                joined.setdefault(a, []).append(b)
                joined.setdefault(b, []).append(a)
    while joined:
        edge, neighbours = joined.popitem()
        loop = [edge]
        while following := [other for other in neighbours if other in joined]:
            loop.append(following[0])
            neighbours = joined.pop(following[0])
        yield np.array([np.mean([_CORNERS[corner] for corner in edge], axis=0) for edge in loop])


def _cut_edges(square: tuple[int, ...], inside: set[int]) -> list[frozenset[int]]:
    edges = zip(square, square[1:] + square[:1], strict=True)
    return [frozenset(edge) for edge in edges if (edge[0] in inside) != (edge[1] in inside)]


def _largest_fan(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vector areas (N-2,3) of the triangles of that fan over a polygon (N,3) which has the largest area."""
    fans = []
    for start in range(len(loop)):
        spokes = np.roll(loop, -start, axis=0)[1:] - loop[start]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    return max(fans, key=lambda fan: float(np.linalg.norm(fan, axis=1).sum()))
