"""Source of unlabelled samples for distillation: a folder of images without masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graysam.data.encoding import encode_sample, resize_for_storage
from graysam.data.packing import PackedCase, Source, key_from
from graysam.data.split import Subject
from graysam.imaging.canvas import to_uint8
from graysam.io.image import read_image

TOP_KIND = "images"  # modality of images that lie in the folder itself
DATASET = "unlabelled"


@dataclass(frozen=True, kw_only=True)
class ImageSource(Source):
    """PNG, JPEG, BMP or TIFF, grey or colour; the first folder below the given one is an image's group and modality.

    Other depths than 8 bits are scaled to 8 by the image's own minimum and maximum; an alpha channel is dropped.
    """

    layout: ClassVar[str] = "images"
    suffixes: ClassVar[frozenset[str]] = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"))
    required: ClassVar[str] = "images (.png, .jpg, .jpeg, .bmp, .tif, .tiff), a subfolder for each modality"

    def key_of(self, file: str) -> str:
        """Return the path as a key."""
        return key_from(file)

    def encode(self, file: str) -> PackedCase:
        """Read an image and encode it without labels."""
        image = to_uint8(read_image(self.folder / file).pixels)
        parts = Path(file).parts
        modality = key_from(parts[0]) if len(parts) > 1 else TOP_KIND
        meta: dict[str, Any] = {
            "case_id": file,
            "subject_id": file,
            "dataset": DATASET,
            "slice_index": None,
            "spacing_mm_zyx": None,
            "original_size": list(image.shape[:2]),
            "boxes_xyxy": {},
        }
        sample = encode_sample(
            self.key_of(file),
            resize_for_storage(image, self.size),
            {},
            group=f"{DATASET}_{modality}",
            modality=modality,
            meta=meta,
        )
        return PackedCase(file, Subject(DATASET, file), (sample,))
