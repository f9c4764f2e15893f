"""The channel schemes: goldens of the released code, hand-computed diffusion, presets."""

import cv2
import numpy as np
import pytest

from graysam.imaging import channels, diffusion
from graysam.imaging.channels import load_scheme, scheme_from_dict, scheme_names, scheme_to_dict
from graysam.imaging.diffusion import difference_percentile, diffuse, diffuse_wrapped
from graysam.system.environment import conf_dir


def test_released_is_bit_exact(golden):
    for case in golden["case_names"]:
        image = golden[f"{case}__input"]
        np.testing.assert_array_equal(load_scheme("released")(image), golden[f"{case}__merged"])
    two_levels = golden["equalize__two_level_in"]
    np.testing.assert_array_equal(load_scheme("released")(two_levels)[..., 2], golden["equalize__two_level_out"])


def test_paper_equalizes_the_diffused_image(golden):
    for case in golden["case_names"]:
        built = load_scheme("paper")(golden[f"{case}__input"])
        np.testing.assert_array_equal(built[..., :2], golden[f"{case}__merged"][..., :2])
        np.testing.assert_array_equal(built[..., 2], golden[f"{case}__paper_equalized_of_diffused"])


@pytest.mark.parametrize(
    ("iterations", "kappa", "gamma"), [(1, 20, 0.1), (1, 0.05, 0.1), (5, 0.1, 0.2), (10, 0.3, 0.25)]
)
def test_wrapped_diffusion_is_bit_exact(golden, iterations, kappa, gamma):
    diffused = diffuse_wrapped(golden["aniso__input"], iterations=iterations, kappa=kappa, gamma=gamma)
    np.testing.assert_array_equal(diffused, golden[f"aniso__iter{iterations}_kappa{kappa}_gamma{gamma}"])


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shape", [(97, 31), (5, 40), (1, 9), (300, 2)])
def test_strips_of_rows_diffuse_as_the_whole_image(monkeypatch, iterations, shape):
    grey = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    whole = diffusion._diffuse_strip(grey, iterations, 0.1, 0.2)
    monkeypatch.setattr(diffusion, "_CACHED_PIXELS", 200)
    strips = diffuse_wrapped(grey, iterations=iterations, kappa=0.1, gamma=0.2)
    np.testing.assert_array_equal(strips, whole)


@pytest.mark.parametrize("row", [0, 150, 299])
@pytest.mark.parametrize("channel", range(3))
def test_one_coloured_pixel_is_colour(row, channel):
    image = np.full((300, 400, 3), 90, np.uint8)
    assert not channels._is_coloured(image)
    image[row, 7, channel] += 1
    assert channels._is_coloured(image)


def test_released_grey_conversion_rounds_as_the_original_on_every_tie():
    # All colours whose weighted sum ends in exactly .5, where one rounding error turns the result.
    red, green, blue = np.ogrid[:256, :256, :256]
    tie = (2989 * red + 5870 * green + 1140 * blue).astype(np.int32) % 10000 == 5000
    colours = np.argwhere(tie).astype(np.uint8)[None]
    assert colours.min() == 0 and colours.max() == 255
    scaled = (colours - colours.min()) / (colours.max() - colours.min()) * 255
    # The original's np.dot, without the fused products of some BLAS, which turn a tenth of the ties.
    red, green, blue = (scaled[..., i] * weight for i, weight in enumerate((0.2989, 0.5870, 0.1140)))
    expected = np.round(red + green + blue).astype(np.uint8)
    np.testing.assert_array_equal(load_scheme("released")(colours)[..., 0], expected)


def test_diffusion_by_hand():
    row = np.array([[0, 0, 8]], np.float32)
    # exponential: the step of 8 at kappa 4 has conductance exp(-4); a quarter of 8 exp(-4) moves left
    moved = 0.25 * 8 * np.exp(-4)
    once = diffuse(row, iterations=1, kappa=4, gamma=0.25, conductance="exponential")
    np.testing.assert_allclose(once, [[0, moved, 8 - moved]], atol=1e-6)
    # rational: conductance 1 / (1 + 4) = 0.2, so 0.4 moves; then 0.4 and 7.2 are the differences
    once = diffuse(row, iterations=1, kappa=4, gamma=0.25, conductance="rational")
    np.testing.assert_allclose(once, [[0, 0.4, 7.6]], atol=1e-6)
    first, second = 0.25 * 0.4 / 1.01, 0.25 * 7.2 / 4.24
    twice = diffuse(row, iterations=2, kappa=4, gamma=0.25, conductance="rational")
    np.testing.assert_allclose(twice, [[first, 0.4 - first + second, 7.6 - second]], atol=1e-6)
    np.testing.assert_allclose(diffuse(row.T, iterations=2, kappa=4, gamma=0.25, conductance="rational"), twice.T)
    assert row.tolist() == [[0, 0, 8]]


@pytest.mark.parametrize("conductance", ["exponential", "rational"])
@pytest.mark.parametrize("shape", [(20, 30), (1, 40), (40, 1), (1, 1)])
def test_diffusion_conserves_intensity_and_range(conductance, shape):
    image = np.random.default_rng(2).integers(0, 256, shape).astype(np.float32)
    diffused = diffuse(image, iterations=50, kappa=200.0, gamma=0.25, conductance=conductance)
    assert diffused.sum(dtype=float) == pytest.approx(image.sum(dtype=float), rel=1e-5)
    assert diffused.min() >= image.min() - 1e-3 and diffused.max() <= image.max() + 1e-3
    # zero flux: nothing comes in from the opposite border
    ramp = np.repeat(np.arange(30, dtype=np.float32)[None] * 8, 4, axis=0)
    ended = diffuse(ramp, iterations=1, kappa=1e6, gamma=0.25, conductance=conductance)
    np.testing.assert_allclose(ended[:, 1:-1], ramp[:, 1:-1], atol=1e-3)


def test_perona_malik_keeps_the_edge_while_noise_falls():
    rng = np.random.default_rng(3)
    clean = np.where(np.arange(128) < 64, 60.0, 180.0)[None].repeat(128, axis=0)
    noisy = (clean + rng.normal(0, 6, clean.shape)).clip(0, 255).astype(np.uint8)
    grey, diffused, equalized = np.moveaxis(load_scheme("perona_malik")(noisy), -1, 0).astype(float)
    assert diffused[:, :60].std() < 0.6 * grey[:, :60].std()
    assert diffused[:, 64].mean() - diffused[:, 63].mean() > 0.95 * (grey[:, 64].mean() - grey[:, 63].mean())
    np.testing.assert_array_equal(equalized, cv2.equalizeHist(diffused.astype(np.uint8)))


def test_kappa_follows_the_images_own_scale():
    image = np.random.default_rng(4).integers(0, 60, (64, 64), dtype=np.uint8)
    scheme = load_scheme("perona_malik")
    # twice the contrast is the same picture
    np.testing.assert_array_equal(scheme(image), scheme(image * np.uint8(2)))


def test_difference_percentile_by_hand():
    grey = np.array([[0, 0, 10], [0, 0, 30]], np.uint8)  # differences 0 10 0 30 | 0 0 20; without zeros 10 20 30
    assert [difference_percentile(grey, p) for p in (1, 33, 34, 50, 67, 100)] == [10, 10, 20, 20, 30, 30]
    assert difference_percentile(np.full((3, 3), 9, np.uint8), 90) == 0
    assert difference_percentile(np.zeros((1, 1), np.uint8), 90) == 0


def test_colour_policy():
    rgb = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in scheme_names():
        kept = load_scheme(name, colour="keep")
        np.testing.assert_array_equal(kept(rgb), rgb)
        grey = rgb[..., 0]
        np.testing.assert_array_equal(kept(np.dstack([grey] * 3)), load_scheme(name, colour="grey")(grey))
    turned = load_scheme("replicate", colour="grey")(rgb)
    np.testing.assert_array_equal(turned, np.dstack([cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)] * 3))
    assert load_scheme("replicate").colour == "keep"  # LiteMedSAM's own preparation


@pytest.mark.parametrize("name", scheme_names())
def test_schemes_leave_their_input_alone(name):
    grey = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    for image in (grey, np.dstack([grey, grey.T, grey])):
        before = image.copy()
        built = load_scheme(name)(image)
        assert built.shape == (256, 256, 3) and built.dtype == np.uint8
        np.testing.assert_array_equal(image, before)
    view = np.dstack([grey, grey])[10:, 5:, 0]  # neither contiguous nor square
    np.testing.assert_array_equal(load_scheme(name)(view), load_scheme(name)(view.copy()))


@pytest.mark.parametrize("name", scheme_names())
def test_schemes_are_what_hydra_composes_and_survive_a_checkpoint(name):
    omegaconf, hydra_utils = pytest.importorskip("omegaconf"), pytest.importorskip("hydra.utils")
    loaded = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(conf_dir() / "channels" / f"{name}.yaml"))
    assert hydra_utils.instantiate(loaded) == load_scheme(name)
    scheme = load_scheme(name, built_on="padded")
    stored = scheme_to_dict(scheme)
    assert stored["name"] == name
    assert all(isinstance(value, (str, int, float)) for value in stored["params"].values())
    assert scheme_from_dict(stored) == scheme


def test_presets_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="paper, perona_malik, released, replicate"):
        load_scheme("grey")
    with pytest.raises(ValueError, match="kapa"):
        load_scheme("paper", kapa=3.0)
    for bad in ([], {"name": "x", "params": {}}, {"name": "paper", "params": {}}, {"name": "paper", "params": None}):
        with pytest.raises(ValueError, match="channel scheme"):
            scheme_from_dict(bad)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("paper", {"built_on": "somewhere"}),
        ("paper", {"colour": "color"}),
        ("paper", {"iterations": 1.5}),
        ("released", {"gamma": "0.1"}),
        ("perona_malik", {"gamma": 0.3}),
        ("perona_malik", {"kappa_percentile": 101.0}),
        ("perona_malik", {"kappa_factor": -1.0}),
        ("perona_malik", {"conductance": "linear"}),
    ],
)
def test_parameters_are_checked(name, overrides):
    with pytest.raises(ValueError, match=next(iter(overrides))):
        load_scheme(name, **overrides)
