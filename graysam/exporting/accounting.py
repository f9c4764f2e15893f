"""Names of the layers that exported graphs compute."""

from collections.abc import Collection

from graysam.exporting.decoder_graph import BoxDecoder
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.models.cost import LAYERS
from graysam.models.sam import Sam


def graph_layers(model: Sam) -> frozenset[str]:
    """Return the names of the layers that the exported graphs of a model multiply with; box prompts skip the others."""
    used = {id(weight) for graph in (ImageEncoder(model), BoxDecoder(model)) for weight in graph.parameters()}
    return frozenset(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and (id(layer.weight) in used or name.startswith("mask_decoder.output_upscaling."))
    )


def traced_layers(model: Sam, paths: Collection[str]) -> frozenset[str]:
    """Return the names of the layers at paths in the traced `ImageEncoder`; a batch norm stands for its convolution."""
    modules, names = dict(model.named_modules()), set()
    for path in paths:
        name = path.replace("encoder.", "image_encoder.", 1).replace(".neck.neck.", ".neck.")
        names.add(name if isinstance(modules[name], LAYERS) else f"{name.rpartition('.')[0]}.conv")
    return frozenset(names)
