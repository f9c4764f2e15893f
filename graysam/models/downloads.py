"""Official weight files that a machine with internet can fetch by name."""

from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch

from graysam.system.folders import user_cache_dir


@dataclass(frozen=True)
class Download:
    """An official address, and the beginning of the file's SHA-256 where its publisher gives one."""

    url: str
    sha256_prefix: str | None = None


_EFFICIENTVIT = "https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/efficientvit_sam_{}.pt"

DOWNLOADS = {
    # From the model table in mit-han-lab/efficientvit, applications/efficientvit_sam/README.md.
    **{f"efficientvit_sam_{size}": Download(_EFFICIENTVIT.format(size)) for size in ("l0", "l1", "l2")},
    # From facebookresearch/segment-anything, README.md; the name carries the hash's beginning.
    "sam_vit_b": Download("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth", "01ec64"),
}


def cache_dir() -> Path:
    """Return the folder of downloaded weights, in the user's cache folder."""
    return user_cache_dir() / "weights"


def fetch(name: str) -> Path:
    """Return the local file of a name in DOWNLOADS, downloading it (with a progress bar) when it is not there yet.

    The file gets its name only when it is complete, and its hash has been checked where one is known.

    Raises:
        ValueError: the address cannot be reached, or the file is another than its publisher's.
    """
    download = DOWNLOADS[name]
    path = cache_dir() / Path(download.url).name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(download.url, str(path), hash_prefix=download.sha256_prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} could not be downloaded from {download.url} ({error}); fetch it elsewhere and give its path"
        ) from error
    return path
