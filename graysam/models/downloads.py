"""Official weight files that a machine with internet can fetch by name."""

from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch

from graysam.system.folders import user_cache_dir


class Download(NamedTuple):
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


def fetch(name: str) -> Path:
    """Return the local file of a name in DOWNLOADS, in the user's cache folder; download it if it is missing.

    Raises:
        ValueError: the address cannot be reached, or the file's hash is not the published one.
    """
    download = DOWNLOADS[name]
    path = user_cache_dir() / "weights" / Path(download.url).name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:  # written under a temporary name, checked, and renamed
        torch.hub.download_url_to_file(download.url, str(path), hash_prefix=download.sha256_prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{name} could not be downloaded from {download.url} ({error}); fetch it elsewhere and give its path"
        ) from error
    return path
