"""Tiny bundles made by hand, whose masks are known beforehand; they need OpenVINO alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graysam.imaging.presets import load_scheme, scheme_to_dict
from graysam.inference.exported_model import ExportedModel, write_exported

SIZE = 64  # side of the input in pixels


def write_tiny_exported(
    path: Path, *, kind: str = "fp32", plain: bool = False, level: float = 0.5, **more: Any
) -> ExportedModel:
    """Write a bundle that segments what in a box is brighter than `level` of the image's range.

    An embedding cell is 4 x 4 pixels, so masks are good to a cell. plain: one decoder for one box, as in bundles for
    other engines. more: what else `bundle.json` says.
    """
    description = {
        "name": "tiny",
        "kind": kind,
        "precision": "f32",
        "size": SIZE,
        "channels": scheme_to_dict(load_scheme("replicate")),
        "model": {},
        **more,
    }
    return write_exported(path, description=description, write_graphs=tiny_graphs(level, plain))


def tiny_graphs(level: float, plain: bool) -> Callable[[Path], None]:
    """Return what writes the graphs into a folder."""

    def write(folder: Path) -> None:
        from openvino import Model, Type, save_model
        from openvino import opset13 as op

        def constant(values: Any) -> Any:
            return op.constant(np.asarray(values, np.float32))

        def parameter(shape: list[int], name: str, kind: Any = Type.f32) -> Any:
            node = op.parameter(shape, kind, name=name)
            node.output(0).set_names({name})
            return node

        def save(stem: str, inputs: list[Any], outputs: dict[str, Any]) -> None:
            results = []
            for name, node in outputs.items():
                node.output(0).set_names({name})
                results.append(op.result(node))
            save_model(Model(results, inputs, stem), folder / f"{stem}.xml", compress_to_fp16=False)

        def grey(embedding: Any) -> Any:  # (1, cells, 3) -> (1, SIZE, SIZE)
            cells = op.reshape(op.reduce_mean(embedding, np.array([2])), np.array([1, 1, SIZE // 4, SIZE // 4]), False)
            pixels = op.interpolate(cells, np.array([SIZE, SIZE]), "nearest", "sizes", axes=np.array([2, 3]))
            return op.reshape(pixels, np.array([1, SIZE, SIZE]), False)

        def logits(pixels: Any, boxes: Any) -> Any:
            corners = op.split(op.unsqueeze(boxes, np.array([2])), np.int64(1), 4).outputs()
            x_min, y_min, x_max, y_max = corners  # (N, 1, 1) each
            x, y = constant(np.arange(SIZE)[None, None]), constant(np.arange(SIZE)[None, :, None])
            inside_x = op.logical_and(op.greater_equal(x, x_min), op.less_equal(x, x_max))
            inside_y = op.logical_and(op.greater_equal(y, y_min), op.less_equal(y, y_max))
            bright = op.multiply(op.subtract(pixels, constant(level)), constant(16))
            return op.select(op.logical_and(inside_x, inside_y), bright, constant(-8))

        def iou(found: Any) -> Any:
            return op.reduce_max(found, np.array([1, 2]))

        images = parameter([1, 3, SIZE, SIZE], "images")
        pooled = op.avg_pool(images, [4, 4], [0, 0], [0, 0], [4, 4], True)
        flat = op.transpose(op.reshape(pooled, np.array([1, 3, -1]), False), np.array([0, 2, 1]))
        save("encoder", [images], {"embedding": flat})
        embedding = parameter([1, SIZE * SIZE // 16, 3], "embedding")
        if plain:
            boxes = parameter([1, 4], "boxes")
            found = logits(grey(embedding), boxes)
            save("decoder", [embedding, boxes], {"logits": found, "iou": iou(found)})
            return
        boxes = parameter([-1, 4], "boxes")
        save("box_tokens", [boxes], {"tokens": op.add(boxes, constant(0))})
        tokens = parameter([-1, 4], "tokens")
        valid_size = parameter([2], "valid_size", Type.i64)  # rows and columns of cells that the image lies on
        pixels = op.multiply(valid_size, op.constant(np.int64(4)))
        found = logits(grey(embedding), tokens)
        cropped = op.slice(found, np.zeros(2, np.int64), pixels, np.ones(2, np.int64), np.array([1, 2]))
        save("box_decoder", [tokens, embedding, valid_size], {"logits": cropped, "iou": iou(found)})

    return write
