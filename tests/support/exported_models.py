"""Tiny exported models made by hand, whose masks are known beforehand; they need OpenVINO alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graysam.imaging.channels import load_scheme, scheme_to_dict
from graysam.inference.exported_model import ExportedModel, write_exported

SIZE = 64  # side of the input in pixels


def write_tiny_exported(
    path: Path, *, kind: str = "fp32", plain: bool = False, level: float = 0.5, **more: Any
) -> ExportedModel:
    """Write a model that segments what in a box is brighter than `level` of the image's range.

    An embedding token is 4 x 4 pixels, so masks are good to a token. plain: one decoder for one box, as in models for
    other engines. more: what else `bundle.json` says.
    """
    channels = scheme_to_dict(load_scheme("replicate"))
    description = {"name": "tiny", "kind": kind, "precision": "f32", "size": SIZE, "channels": channels, "model": {}}
    return write_exported(path, description={**description, **more}, write_graphs=tiny_graphs(level, plain))


def write_stub_exported(path: Path) -> ExportedModel:
    """Write the goldens' stub network (their README, section 7): bright from 0.4 on, a box's ends not included."""
    channels = scheme_to_dict(load_scheme("replicate"))
    description = {"name": "stub", "kind": "fp32", "precision": "f32", "size": 256, "channels": channels, "model": {}}
    graphs = tiny_graphs(0.4, True, size=256, token=1, inclusive=False)
    return write_exported(path, description=description, write_graphs=graphs)


def tiny_graphs(
    level: float, plain: bool, *, size: int = SIZE, token: int = 4, inclusive: bool = True
) -> Callable[[Path], None]:
    """Return what writes the graphs into a folder.

    Args:
        level, plain: see `write_tiny_exported`.
        size: side of the input in pixels.
        token: side of an embedding token in pixels.
        inclusive: whether x_max and y_max of a box belong to it.
    """

    def write(folder: Path) -> None:
        from openvino import Model, Type, save_model
        from openvino import opset13 as op

        below = op.less_equal if inclusive else op.less

        def parameter(shape: list[int], name: str, kind: Any = Type.f32) -> Any:
            node = op.parameter(shape, kind, name=name)
            node.output(0).set_names({name})
            return node

        def save(stem: str, inputs: list[Any], outputs: dict[str, Any]) -> None:
            for name, node in outputs.items():
                node.output(0).set_names({name})
            model = Model([op.result(node) for node in outputs.values()], inputs, stem)
            save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)

        def logits(embedding: Any, boxes: Any) -> Any:  # (1, tokens, 3) and (N, 4) -> (N, SIZE, SIZE)
            tokens = op.reshape(op.reduce_mean(embedding, [2]), [1, 1, size // token, size // token], False)
            pixels = op.reshape(
                op.interpolate(tokens, [size, size], "nearest", "sizes", axes=[2, 3]), [1, size, size], False
            )
            x_min, y_min, x_max, y_max = op.split(op.unsqueeze(boxes, [2]), np.int64(1), 4).outputs()  # (N, 1, 1) each
            y, x = np.float32(np.ogrid[:1, :size, :size][1]), np.float32(np.ogrid[:1, :size, :size][2])
            inside_x = op.logical_and(op.greater_equal(x, x_min), below(x, x_max))
            inside_y = op.logical_and(op.greater_equal(y, y_min), below(y, y_max))
            bright = op.multiply(op.subtract(pixels, np.float32(level)), np.float32(16))
            return op.select(op.logical_and(inside_x, inside_y), bright, np.float32(-8))

        images, embedding = (
            parameter([1, 3, size, size], "images"),
            parameter([1, (size // token) ** 2, 3], "embedding"),
        )
        pooled = op.avg_pool(images, [token, token], [0, 0], [0, 0], [token, token], True)
        save("encoder", [images], {"embedding": op.transpose(op.reshape(pooled, [1, 3, -1], False), [0, 2, 1])})
        boxes, tokens = parameter([1 if plain else -1, 4], "boxes"), parameter([-1, 4], "tokens")
        found = logits(embedding, boxes if plain else tokens)
        iou = op.reduce_max(found, [1, 2])
        if plain:
            save("decoder", [embedding, boxes], {"logits": found, "iou": iou})
            return
        save("box_tokens", [boxes], {"tokens": op.add(boxes, np.float32(0))})
        valid_size = parameter([2], "valid_size", Type.i64)  # rows and columns of tokens that the image lies on
        cropped = op.slice(found, [0, 0], op.multiply(valid_size, np.int64(token)), [1, 1], [1, 2])
        save("box_decoder", [tokens, embedding, valid_size], {"logits": cropped, "iou": iou})

    return write


class Spy:
    """A network that keeps what it is given, and answers with empty masks."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.boxes: list[np.ndarray] = []

    def encode(self, images: np.ndarray) -> np.ndarray:
        self.images += list(images)
        return np.zeros((len(images), 1, 64, 64), np.float32)

    def decode(
        self, embedding: np.ndarray, grid_boxes: np.ndarray, valid_size: object = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.boxes += list(grid_boxes)
        return np.full((len(grid_boxes), 256, 256), -1, np.float32), np.zeros(len(grid_boxes), np.float32)
