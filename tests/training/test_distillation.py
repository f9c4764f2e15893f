"""A student learns a teacher's embeddings: targets, cache, views, losses, and what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch

from graysam.data.augment import Tone
from graysam.data.dataset import Batch
from graysam.data.packing import pack
from graysam.data.sources import ImageSource
from graysam.imaging.canvas import content_hash
from graysam.imaging.channels import load_scheme
from graysam.models.registry import open_pretrained
from graysam.training.distillation import Distillation, embedding_error, mask_error, prompts
from graysam.training.embedding_cache import EmbeddingCache, from_levels, to_levels
from graysam.training.module import SamModule
from graysam.training.teachers import OpenVinoTeacher, TorchTeacher, VitTeacher, open_teacher
from tests.support.commands import save_tiny_model
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import build_data, build_distillation, build_module, changed_by_a_step, logged, run

pytestmark = pytest.mark.usefixtures("traced_once")


Config = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("teacher") / "teacher.safetensors", filled=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three images without masks."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in" / "fundus").mkdir(parents=True)
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (200, 256, 3), np.uint8)
        cv2.imwrite(str(folder / "in" / "fundus" / f"{i}.png"), noise)
    pack(ImageSource(folder=folder / "in", size=256), folder / "shards", samples_per_shard=8, split=None)
    return folder / "shards"


@pytest.fixture
def config(toy_shards: Path, tmp_path: Path, teacher_file: Path) -> Config:
    """Return a function that composes a tiny distillation run with further overrides."""
    given = (
        "distillation=lite_medsam",
        f"distillation.teacher.model={teacher_file}",
        "distillation.teacher.precision=f32",
        f"distillation.cache_dir={tmp_path / 'cache'}",
        "distillation.cache_gb=1",
        "data.views_per_group=6",
    )
    return lambda *more: compose_plain("train", overrides(toy_shards, tmp_path / "run", *given, *more))


def prepared(given: dict[str, Any]) -> tuple[SamModule, Distillation, list[Batch]]:
    torch.manual_seed(0)
    distillation = build_distillation(given)
    data = build_data(given, distillation=distillation)
    module = build_module(given, data=data, distillation=distillation)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is attached here
    return module, distillation, list(data.train_dataloader())


# ------------------------------------------------------------------ the loss
def test_the_error_is_one_for_a_constant_and_zero_for_the_teachers_own() -> None:
    teacher = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * 3 + 5
    mean = teacher.mean(dim=(0, 2, 3), keepdim=True).expand_as(teacher)
    assert embedding_error(teacher, teacher).tolist() == [0] * 4
    assert embedding_error(mean, teacher).mean().item() == pytest.approx(1)


def test_masked_tokens_weigh_more() -> None:
    teacher = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    spread = (teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    student = teacher.clone()
    student[..., 0, 0] += 1  # the one wrong token, by 1 in every channel
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[0, 0, :4, :4] = True
    assert embedding_error(student, teacher, masks, 3.0).item() == pytest.approx(4 / (15 + 4) / spread.item())
    assert embedding_error(student, teacher, masks, 0.0).item() == pytest.approx(1 / 16 / spread.item())
    masks[0, 0, 0:2, :4] = False  # half of the token is left
    assert embedding_error(student, teacher, masks, 3.0).item() == pytest.approx(2.5 / (15 + 2.5) / spread.item())


# ------------------------------------------------------------------ teachers
def test_the_engine_embeds_as_torch_does(teacher_file: Path, threads: None) -> None:
    teacher = OpenVinoTeacher(model=str(teacher_file), precision="f32", threads=1)
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = open_pretrained(str(teacher_file)).model.encode(images)
    found = teacher.embed(images)
    assert (found.dtype, found.shape) == (torch.float16, expected.shape)
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


def test_a_gpu_is_taught_in_torch_and_a_cpu_by_the_engine(
    teacher_file: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": str(teacher_file), "precision": "f32", "threads": 1}
    in_torch, engine = (
        TorchTeacher(model=str(teacher_file), precision="f32", device="cpu"),
        open_teacher(**given, accelerator="auto"),
    )
    assert "OpenVINO on the CPU" in engine.summary
    assert "PyTorch on cpu, f32, in batches" in in_torch.summary
    assert in_torch.identity != engine.identity  # their embeddings differ by rounding
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    found, expected = in_torch.embed(images), engine.embed(images)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (found - expected).abs().max() < 4e-3 * expected.abs().max()
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("graysam.training.teachers.TorchTeacher", lambda **arguments: opened.append(arguments))
    open_teacher(**given, accelerator="auto")
    assert opened == [{"model": str(teacher_file), "precision": "f32", "device": "cuda:0"}]
    assert isinstance(open_teacher(**given, accelerator="cpu"), OpenVinoTeacher)


@pytest.mark.slow
def test_sams_vit_b_is_read_by_its_own_names(tmp_path: Path) -> None:
    """360 MB of weights, and a network of 1024 px."""
    network = timm.create_model("samvit_base_patch16", pretrained=False, num_classes=0).eval()
    state = {
        f"image_encoder.{key.replace('.mlp.fc', '.mlp.lin')}": value for key, value in network.state_dict().items()
    }
    assert "image_encoder.blocks.0.mlp.lin1.weight" in state  # as in SAM's and MedSAM's files
    assert "image_encoder.neck.3.weight" in state
    torch.save({**state, "mask_decoder.iou_token.weight": torch.zeros(1, 256)}, tmp_path / "vit_b.pth")
    teacher = VitTeacher(weights=str(tmp_path / "vit_b.pth"), device="cpu")
    images = torch.rand(1, 3, 256, 256)
    large = torch.nn.functional.interpolate(images, (1024, 1024), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        expected = network.forward_features(large)
    found = teacher.embed(images)
    assert found.shape == (1, 256, 64, 64)
    assert torch.equal(found, expected.half())
    torch.save({"image_encoder.pos_embed": state["image_encoder.pos_embed"]}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"no ViT-B of SAM or MedSAM \(it differs in .*\); give medsam_vit_b\.pth"):
        VitTeacher(weights=str(tmp_path / "part.pth"), device="cpu")


# ------------------------------------------------------------------ the cache
class CountingTeacher:
    """Embeds every image as its own first pixel."""

    identity, scheme, calls, summary, heads = "counting", load_scheme("replicate"), 0, "", None

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images)
        return images[:, :, :1, :1].half()


def small_batch(*views: str | None, first: int = 0) -> Batch:
    images = torch.arange(first, first + float(len(views))).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    empty = torch.zeros(len(views), 0)
    names = [""] * len(views)
    return Batch(names, names, names, images, empty, empty, empty, views=views)


def test_the_cache_keeps_what_fits_and_replaces_what_is_damaged(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    weights = {"weight": 1.0, "segmentation_weight": 0.0, "mask_weight": 0.0, "prompt_weight": 0.0}

    def opened(size: int) -> Distillation:
        room = {"cache_dir": str(tmp_path), "cache_gb": (size + 0.5) / 1e9, "cache_bits": 16}
        return Distillation(teacher=teacher, **room, **weights)

    distillation, batch = opened(2 * 6), small_batch("a", "b", "c", None)  # bytes of two embeddings
    for calls in (4, 6):  # the third and the one without a name are embedded anew
        assert distillation.targets(batch)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        assert teacher.calls == calls
    (folder,) = tmp_path.iterdir()
    files = [folder / f"{content_hash(image.numpy())}.npy" for image in batch.images]
    assert [file.exists() for file in files] == [True, True, False, False]
    files[0].write_bytes(b"\x93NUMPY\x01\x00damaged")
    for name, calls in (("a", 7), ("under another name", 7)):
        assert opened(10**6).targets(small_batch(name))[0, 0].item() == 0
        assert teacher.calls == calls
    assert opened(0).targets(small_batch("a", first=5))[0, 0].item() == 5  # another image under a known name
    assert teacher.calls == 8
    assert len(list(folder.iterdir())) == 2


def test_eight_bits_take_half_the_room_and_err_by_less_than_a_hundredth(
    teacher_file: Path, tmp_path: Path, threads: None
) -> None:
    teacher = OpenVinoTeacher(model=str(teacher_file), precision="f32", threads=1)
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    caches = [EmbeddingCache(tmp_path, identity="x", gigabytes=1, bits=bits) for bits in (16, 8)]
    assert caches[0].folder != caches[1].folder
    for embedding in (teacher.embed(image)[0].contiguous(), noise, torch.zeros(2, 4, 8).half()):
        exact, rounded = (cache.store(image[0], embedding) for cache in caches)
        assert torch.equal(exact, embedding)
        assert [torch.equal(cache.load(image[0]), value) for cache, value in zip(caches, (exact, rounded), strict=True)]
        spread = embedding.float().std().item()
        assert (rounded.float() - embedding.float()).square().mean().sqrt().item() <= 0.01 * spread
    sizes = [sum(file.stat().st_size for file in cache.folder.iterdir()) for cache in caches]
    EmbeddingCache(tmp_path, identity="y", gigabytes=1, bits=8).store(image[0], noise)
    assert to_levels(noise.numpy()).nbytes < 0.54 * noise.nbytes and len(sizes) == 2
    with pytest.raises(ValueError, match="8-bit levels"):
        from_levels(np.zeros(8, np.float16))  # type: ignore[arg-type]


# ------------------------------------------------------------------ masks for the same boxes
def test_equal_masks_differ_by_nothing_and_others_by_more() -> None:
    sharp = torch.full((1, 1, 16, 16), -20.0)
    sharp[..., 4:12, 4:12] = 20.0
    assert mask_error(sharp, sharp).item() == pytest.approx(0, abs=1e-4)
    assert mask_error(sharp.roll(2, dims=3), sharp).item() > mask_error(sharp.roll(1, dims=3), sharp).item() > 0.1


def test_prompts_are_the_given_boxes_or_random_ones_within_the_image() -> None:
    images = torch.zeros(64, 3, 256, 256)
    images[:, :, :100, :200] = 0.5  # the rest is padding
    boxes, valid = torch.zeros(64, 2, 4), torch.zeros(64, 2, dtype=torch.bool)
    boxes[0, 0], valid[0, 0] = torch.tensor([5.0, 6.0, 7.0, 8.0]), True
    batch = Batch([""] * 64, [""] * 64, [""] * 64, images, boxes, torch.zeros(64, 2, 256, 256).bool(), valid)
    torch.manual_seed(0)
    found = prompts(batch)
    assert found[0].tolist() == [5, 6, 7, 8]
    low, high = found[1:, :2], found[1:, 2:]
    assert (low >= 0).all() and (high <= torch.tensor([200.0, 100.0])).all()
    sides = (high - low) / torch.tensor([200.0, 100.0])
    assert 0.079 < sides.min() < 0.12 and 0.5 < sides.max() < 0.601
    assert not torch.equal(prompts(batch)[1:], found[1:])


@pytest.mark.parametrize("labels", ["", "data.exclude_groups=[US,CT]"])
def test_a_student_learns_the_teachers_masks(config: Config, pictures: Path, labels: str) -> None:
    """On images with boxes and without; the teacher's heads stay, and the gradient reaches the encoder alone."""
    frozen = ("frozen=[prompt_encoder,mask_decoder]", "distillation.weight=0", "distillation.prompt_weight=1")
    given = config(*frozen, f"data.further_shards=[{pictures}]", *([labels] if labels else []))
    module, distillation, batches = prepared(given)
    before = {key: value.clone() for key, value in distillation.teacher.heads.state_dict().items()}
    moved = changed_by_a_step(module, batches[0])
    assert moved and all(key.startswith("image_encoder.") for key in moved)
    assert any(key.endswith("weight") for key in moved)
    after = distillation.teacher.heads.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    module.model.load_state_dict(open_pretrained(given["distillation"]["teacher"]["model"]).model.state_dict())
    module.eval()
    with torch.no_grad():
        embedding, target = module.model.encode(batches[0].images), distillation.targets(batches[0])
        errors = distillation.prompt_error(module.model, embedding, target, batches[0])
    assert errors.shape == (len(embedding),)
    # the teacher's own answer, but for its embedding in float16 and Dice's comparison with a mask of 0 and 1
    assert errors.max() < 1


def test_a_copy_of_the_module_shares_the_teacher(config: Config) -> None:
    module, distillation, _ = prepared(config())
    assert copy.deepcopy(module).distillation is distillation


# ------------------------------------------------------------------ views and targets
def test_targets_belong_to_their_images_and_come_from_the_cache_later(
    config: Config, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the student's channels are other ones, and images are changed before."""
    given = config(f"data.further_shards=[{pictures}]", "channels=perona_malik", "augment=distill")
    _, distillation, batches = prepared(given)
    assert {group for batch in batches for group in batch.groups} == {"US", "CT_toy", "unlabelled_fundus"}
    for batch in batches:
        assert batch.teacher_images is not None
        assert torch.equal(distillation.targets(batch), distillation.teacher.embed(batch.teacher_images).float())
    stored = len(list((tmp_path / "cache").rglob("*.npy")))
    assert stored == len({view for batch in batches for view in batch.views})

    _, again, batches = prepared(given)  # another process or run
    monkeypatch.setattr(again.teacher, "embed", None)
    for batch, target in zip(batches, [distillation.targets(batch) for batch in batches], strict=True):
        assert torch.equal(again.targets(batch), target)


def test_a_view_is_the_same_image_in_every_epoch_and_boxes_are_not(config: Config) -> None:
    given = config("augment=distill", "jitter=released", "data.samples_per_group=20")
    data = build_data(given, distillation=build_distillation(given))
    images: dict[str, torch.Tensor] = {}
    boxes: dict[str, set[str]] = {}
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            for view, image, box in zip(batch.views, batch.images, batch.boxes, strict=True):
                assert torch.equal(images.setdefault(view, image), image)
                boxes.setdefault(view, set()).add(str(box.tolist()))
    groups = data.reader.groups
    views = {name: {v for v in images if groups[int(v.split("-")[0])] == name} for name in ("US", "CT_toy")}
    assert {name: len(found) for name, found in views.items()} == {"US": 7, "CT_toy": 6}  # 7 x 1 and 3 x 2
    assert len({str(image.sum()) for image in images.values()}) == len(images)
    assert max(len(found) for found in boxes.values()) > 1


def test_embeddings_are_known_by_the_teacher_and_its_input(config: Config, tmp_path: Path) -> None:
    """Runs of other seeds and folders share those of equal images, and changed images have others."""

    def stored(*more: str) -> int:
        _, distillation, batches = prepared(config(*more))
        for batch in batches:
            assert torch.equal(distillation.targets(batch), distillation.teacher.embed(batch.images).float())
        return len(list((tmp_path / "cache").rglob("*.npy")))

    first = stored("data.samples_per_group=null")
    assert stored("data.samples_per_group=null", "seed=5") == first
    assert stored("data.samples_per_group=null", "augment=flips") > first


def test_tone_keeps_places_and_negates_now_and_then() -> None:
    image, rng = np.arange(256, dtype=np.uint8).reshape(16, 16), np.random.default_rng(0)
    unchanged, masks = Tone(max_gamma=1, max_tint=1, negative=0)(image, [], rng)
    assert (unchanged == image).all() and masks == []
    assert (Tone(max_gamma=1, max_tint=1, negative=1)(image, [], rng)[0] == 255 - image).all()
    brighter = [Tone(max_gamma=2, max_tint=1, negative=0)(image, [], rng)[0] for _ in range(20)]
    assert all((np.diff(changed.ravel().astype(int)) >= 0).all() and changed[0, 0] == 0 for changed in brighter)
    assert len({changed.tobytes() for changed in brighter}) == 20
    tinted = Tone(max_gamma=1, max_tint=1.5, negative=0)(np.repeat(image[..., None], 3, axis=2), [], rng)[0]
    assert (tinted[..., 0] != tinted[..., 1]).any()


# ------------------------------------------------------------------ training
def test_a_step_of_distillation_moves_the_encoder_alone(config: Config) -> None:
    module, _, batches = prepared(config("frozen=[prompt_encoder,mask_decoder]"))
    moved = changed_by_a_step(module, batches[0])
    assert moved and all(key.startswith("image_encoder.") for key in moved)


def test_the_loss_is_the_weighted_sum(config: Config, pictures: Path) -> None:
    more = (f"data.further_shards=[{pictures}]", "distillation.weight=0.5", "distillation.segmentation_weight=2")
    module, distillation, batches = prepared(config(*more))
    batch = next(b for b in batches if 0 < b.valid.sum() < b.valid.numel())
    module.train()
    torch.manual_seed(1)
    loss = module.training_step(batch, 0).item()
    embedding = module.model.encode(batch.images)
    logits, iou = module.model.decode(embedding, batch.boxes)
    error = embedding_error(embedding, distillation.targets(batch), batch.masks, distillation.mask_weight).mean()
    segmentation = module.loss(logits, iou, batch.masks)["total"][batch.valid].mean()
    assert loss == pytest.approx((0.5 * error + 2 * segmentation).item(), rel=1e-4)


def test_a_batch_without_any_label_still_gives_every_gradient(config: Config, pictures: Path) -> None:
    more = (f"data.further_shards=[{pictures}]", "distillation.segmentation_weight=1", "data.exclude_groups=[US,CT]")
    module, _, batches = prepared(config(*more))
    assert not batches[0].valid.any()
    loss = module.training_step(batches[0], 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_learning_rates_by_part(config: Config) -> None:
    more = ("+lr_factors={mask_decoder: 0.2, mask_decoder.transformer: 0.5}", "optimizer.lr=0.01")
    module, _, _ = prepared(config(*more))
    optimizer = module.configure_optimizers()["optimizer"]
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in module.model.named_parameters():
        if parameter.requires_grad:
            factor = 0.5 if name.startswith("mask_decoder.transformer.") else 0.2 if "mask_decoder" in name else 1
            assert rates[id(parameter)] == pytest.approx(0.01 * factor), name


def test_a_run_learns_the_teacher_and_another_starts_from_its_checkpoint(
    config: Config, pictures: Path, tmp_path: Path
) -> None:
    more = (
        f"data.further_shards=[{pictures}]",
        "monitor=val/embedding_error",
        "frozen=[prompt_encoder,mask_decoder]",
        "trainer.max_epochs=3",
        "data.samples_per_group=8",
        "optimizer.lr=5e-3",
    )
    assert run(config(*more)) == 0
    names = ("train/embedding_error_epoch", "val/embedding_error")
    train, val = (list(values.values()) for values in logged(tmp_path / "run", names).values())
    assert (len(train), len(val)) == (3, 3)
    assert train[-1] < 0.8 * train[0]
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    _, distillation, batches = prepared(config(f"weights={best}"))
    with torch.autocast("cpu", torch.bfloat16):
        assert distillation.targets(batches[0]).dtype == torch.float32


def test_images_without_masks_need_a_teacher(toy_shards: Path, pictures: Path, tmp_path: Path) -> None:
    given = compose_plain("train", overrides(toy_shards, tmp_path / "run", f"data.further_shards=[{pictures}]"))
    with pytest.raises(ValueError, match="add distillation=lite_medsam"):
        build_data(given)


def test_what_is_left_out_is_not_drawn_but_validated(toy_shards: Path, tmp_path: Path) -> None:
    given = compose_plain("train", overrides(toy_shards, tmp_path / "run", "data.exclude_groups=[CT]"))
    data = build_data(given)
    assert {group for batch in data.train_dataloader() for group in batch.groups} == {"US"}
    assert {item.group for item in data.validation_set()} == {"US", "CT_toy"}
    with pytest.raises(ValueError, match=r"data\.exclude_groups: no training samples of a group or modality XR"):
        build_data(compose_plain("train", overrides(toy_shards, tmp_path / "run", "data.exclude_groups=[XR]")))
