"""The networks against numbers from the original code (goldens/README.md, section 3)."""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graysam.imaging.canvas import Canvas
from graysam.imaging.masks import mask_to_native
from graysam.models.cost import measure_cost
from graysam.models.image_encoders import upsample
from graysam.models.registry import build_model
from graysam.models.sam import Sam
from graysam.models.weights import load_parts
from tests.support.fill import as_weight_file, official_state, uniform

ATOL = 3e-5  # tighter than the goldens' 1e-4, to catch the traps of LiteMLA's and batch norm's epsilon
CASES = {
    "efficientvit_sam_l0": ("efficientvit_sam", "model_efficientvit_l0.npz"),
    "lite_medsam": ("lite_medsam", "model_litemedsam.npz"),
}
GOLDENS = Path(__file__).parents[1] / "goldens"


@functools.cache
def filled(name: str) -> Sam:
    model = build_model(name)
    load_parts(model, as_weight_file(official_state(GOLDENS, name), CASES[name][0]))
    return model.eval()


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / CASES[name][1], allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def images(name: str) -> torch.Tensor:
    g = golden(name)
    stack = np.stack([g["image_u8"], g["image2_u8"]]).transpose(0, 3, 1, 2)
    return torch.from_numpy(stack.astype(np.float32) / 255)


@functools.cache
def embeddings(name: str) -> torch.Tensor:
    with torch.inference_mode():
        return filled(name).encode(images(name))


def stats(x: torch.Tensor) -> np.ndarray:
    x = x.double()
    return np.array([x.mean(), x.std(correction=0), x.min(), x.max(), x.abs().sum()])


def sample(x: torch.Tensor, channels: int, y: int, xs: int) -> np.ndarray:
    return x[::channels, ::y, ::xs].numpy()


@pytest.mark.parametrize("name", CASES)
def test_embedding_matches_the_original(name: str) -> None:
    g = golden(name)
    for i, prefix in enumerate(("emb", "emb2")):
        emb = embeddings(name)[i]
        np.testing.assert_allclose(sample(emb, 16, 8, 8), g[f"{prefix}_sample_c16_y8_x8"], atol=ATOL)
        np.testing.assert_allclose(emb.mean(dim=(1, 2)), g[f"{prefix}_chan_mean"], atol=ATOL)
        np.testing.assert_allclose(stats(emb)[:4], g[f"{prefix}_stats"][:4], atol=ATOL)


@pytest.mark.parametrize("name", CASES)
def test_prompt_encoder_matches_the_original(name: str) -> None:
    g, encoder = golden(name), filled(name).prompt_encoder
    boxes, points = torch.from_numpy(g["boxes"]), torch.from_numpy(g["points"])
    labels = torch.from_numpy(g["point_labels"])
    mask = torch.from_numpy((4 * uniform("maskprompt", 65536) - 2).astype(np.float32).reshape(1, 1, 256, 256))
    with torch.inference_mode():
        sparse, dense = encoder(boxes=boxes)
        np.testing.assert_allclose(sparse, g["sparse_boxes"], atol=1e-5)
        assert dense.shape == (1, 256, 64, 64)
        np.testing.assert_allclose(dense[0, :, 5, 9], g["dense_nomask_vec"], atol=1e-6)
        np.testing.assert_allclose(encoder(points=(points, labels))[0], g["sparse_points_padded"], atol=1e-5)
        both, _ = encoder(points=(points, labels), boxes=boxes[:2])
        np.testing.assert_allclose(both, g["sparse_points_and_boxes"], atol=1e-5)
        position = encoder.dense_position_encoding()[0]
        np.testing.assert_allclose(sample(position, 16, 8, 8), g["dense_pe_sample_c16_y8_x8"], atol=1e-5)
        np.testing.assert_allclose(mask.flatten()[:8], g["mask_prompt_first8"], atol=1e-6)
        _, prompted = encoder(masks=mask)
        np.testing.assert_allclose(sample(prompted[0], 16, 8, 8), g["mask_prompt_dense_sample_c16_y8_x8"], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_several_boxes_on_one_image(name: str) -> None:
    g, model = golden(name), filled(name)
    with torch.inference_mode():
        logits, iou = model.decode(embeddings(name)[:1], torch.from_numpy(g["boxes"])[None])
    np.testing.assert_allclose(logits[0, :, ::4, ::4], g["low_res_logits_y4_x4"], atol=1e-4)
    np.testing.assert_allclose(iou[0, :, None], g["iou"], atol=ATOL)
    differing = np.packbits((logits[0] > 0).flatten(1).numpy(), axis=1) ^ g["low_res_mask_packbits"]
    assert np.unpackbits(differing, axis=1).sum(axis=1).max() <= 20
    np.testing.assert_allclose((logits[0] > 0).sum(dim=(1, 2)), g["low_res_mask_area"], atol=20)
    # Back on the image: crop, one bilinear resize, threshold.
    canvas = Canvas(*(int(n) for n in g["post_orig_size"]), 256)
    assert (canvas.resized_height, canvas.resized_width) == tuple(g["post_new_size"])
    areas = [int(mask_to_native(one.numpy(), canvas).sum()) for one in logits[0]]
    np.testing.assert_allclose(areas, g["post_mask_area"], atol=20)


@pytest.mark.parametrize("name", CASES)
def test_multimask_points_and_two_images(name: str) -> None:
    g, model = golden(name), filled(name)
    position = model.prompt_encoder.dense_position_encoding()
    boxes = torch.from_numpy(g["boxes"])
    with torch.inference_mode():
        emb = embeddings(name)
        sparse, dense = model.prompt_encoder(boxes=boxes[:2])
        logits, iou = model.mask_decoder(
            embedding=emb[:1], position=position, sparse=sparse, dense=dense, multimask=True
        )
        np.testing.assert_allclose(logits[:, :, ::8, ::8], g["multimask_logits_y8_x8"], atol=1e-4)
        np.testing.assert_allclose(iou, g["multimask_iou"], atol=ATOL)
        points = (torch.from_numpy(g["points"]), torch.from_numpy(g["point_labels"]))
        sparse, dense = model.prompt_encoder(points=points)
        logits, iou = model.mask_decoder(embedding=emb[:1], position=position, sparse=sparse, dense=dense)
        np.testing.assert_allclose(logits[:, 0, ::8, ::8], g["points_logits_y8_x8"], atol=1e-4)
        np.testing.assert_allclose(iou, g["points_iou"], atol=ATOL)
        logits, iou = model.decode(emb, boxes[:2, None])
    np.testing.assert_allclose(logits[:, 0, ::8, ::8], g["batch2_logits_y8_x8"], atol=1e-4)
    np.testing.assert_allclose(iou, g["batch2_iou"], atol=ATOL)


def test_intermediate_features_match_the_original() -> None:
    for name in CASES:
        g, encoder = golden(name), filled(name).image_encoder
        with torch.inference_mode():
            x = images(name)[:1]
            if name == "lite_medsam":
                features = {"patch_embed": encoder.backbone.patch_embed}
            else:
                stages = [encoder.backbone.stem, *encoder.backbone.stages]
                features = {f"stage{i}": stage for i, stage in enumerate(stages)}
            for feature, stage in features.items():
                x = stage(x)
                assert tuple(x.shape) == tuple(g[f"feat_{feature}_shape"])
                np.testing.assert_allclose(stats(x)[:4], g[f"feat_{feature}_stats"][:4], rtol=1e-5, atol=1e-4)


def test_neck_upsamples_to_64_whatever_the_input() -> None:
    g = golden("efficientvit_sam_l0")
    doubled = images("efficientvit_sam_l0")[:1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.inference_mode():
        emb = filled("efficientvit_sam_l0").encode(doubled)[0]
    np.testing.assert_allclose(sample(emb, 16, 8, 8), g["emb512nearest_sample_c16_y8_x8"], atol=ATOL)


def test_lite_mla_epsilon_is_the_authors() -> None:
    """timm's epsilon of 1e-5 shows only where queries and keys are tiny."""
    g = golden("efficientvit_sam_l0")
    state = official_state(GOLDENS, "efficientvit_sam_l0")
    for key, value in state.items():
        if key.endswith("context_module.main.qkv.conv.weight"):
            value[torch.arange(len(value)) % 96 < 64] *= 1e-4
    model = build_model("efficientvit_sam_l0")
    load_parts(model, as_weight_file(state, "efficientvit_sam"))
    with torch.inference_mode():
        emb = model.eval().encode(images("efficientvit_sam_l0")[:1])[0]
    np.testing.assert_allclose(sample(emb, 16, 8, 8), g["emb_qk1e-4_sample_c16_y8_x8"], atol=ATOL)


def test_positions_stay_exact_under_autocast() -> None:
    encoder = filled("efficientvit_sam_l0").prompt_encoder
    boxes = torch.tensor([[3.0, 5.0, 200.0, 251.0]])
    with torch.inference_mode():
        exact, _ = encoder(boxes=boxes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast, _ = encoder(boxes=boxes)
    torch.testing.assert_close(cast.float(), exact, atol=1e-6, rtol=0)


def test_no_box_gives_empty_output() -> None:
    with torch.inference_mode():
        logits, iou = filled("efficientvit_sam_l0").decode(embeddings("efficientvit_sam_l0")[:1], torch.zeros(1, 0, 4))
    assert logits.shape == (1, 0, 256, 256)
    assert iou.shape == (1, 0)


@pytest.mark.parametrize(("key", "name"), [("efficientvit_l0", "efficientvit_sam_l0"), ("litemedsam", "lite_medsam")])
def test_the_fill_is_the_goldens_own(key: str, name: str) -> None:
    """Without it every other test here would compare two different models."""
    wanted = json.loads((GOLDENS / "fill_check.json").read_text())["models"][key]
    state = official_state(GOLDENS, name)
    digest = hashlib.sha256()
    for tensor in (state[k] for k in sorted(state)):
        digest.update(tensor.numpy().tobytes())
    assert len(state) == wanted["n_keys"]
    assert digest.hexdigest() == wanted["sha256_sorted_keys_concat_raw_bytes_le"]


def test_upsampling_by_products_is_torchs_forward_and_back() -> None:
    maps = torch.randn(2, 5, 16, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.randn(2, 5, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.interpolate(maps, 64, mode="bicubic", align_corners=False)
    (gradient,) = torch.autograd.grad((expected * wanted).sum(), maps)
    found = upsample(maps, 64)
    (back,) = torch.autograd.grad((found * wanted).sum(), maps)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(back, gradient, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = upsample(maps.to(torch.bfloat16), 64)
    assert half.dtype == torch.bfloat16


def test_parameters_and_macs_of_the_papers_model() -> None:
    """Attention's products by hand, for one box: 7 tokens (IoU, 4 masks, 2 corners) and 64x64 embedding tokens.

    Two products each: self-attention of the tokens in both blocks, 256 wide; cross-attention with the embedding in
    both directions in both blocks, and once at the end, 128 wide. One further product: a mask's 32 weights with
    256x256 pixels.
    """
    model = build_model("efficientvit_sam_l0")
    cost = measure_cost(model, 256)
    macs = sum(cost.macs.values())
    assert sum(cost.parameters.values()) == 34_792_784
    # ptflops counts 18.815 GMAC an image; it adds normalization and activations, which are not counted here
    assert 0.99 < macs / 18.815e9 < 1
    assert 32 * macs == pytest.approx(602e9, rel=0.01)
    assert model.training
    layers = sum(layer.macs for layer in cost.layers.values() if layer.part == "heads")
    assert cost.macs["heads"] - layers == 2 * 2 * 7 * 7 * 256 + 5 * 2 * 7 * 64 * 64 * 128 + 32 * 256 * 256
