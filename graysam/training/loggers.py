"""What a run logs and where: tables and pictures for every logger, and the W&B logger.

A name means the same everywhere: the table `validation` is W&B's and TensorBoard's `tables/validation` and the file
`tables/validation.csv` of the run directory; pictures `worst/CT` are `images/worst/CT` and `images/worst/CT.png`.
"""

import csv
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from tabulate import tabulate

from graysam.imaging.drawing import write_picture
from graysam.reporting.schemas import CONFIG, RUN, read_json_object
from graysam.system.environment import has_home
from graysam.system.files import replacing
from graysam.system.terminal import one_line

if TYPE_CHECKING:
    from wandb import Run
    from wandb.sdk.lib import RunDisabled

STAGING = "WANDB_DATA_DIR"  # folder of W&B's tables until they are uploaded, by default in the user's home
HEADER_BYTES = 7  # size of an offline W&B file without content
log = logging.getLogger(__name__)


def log_table(
    loggers: Iterable[Logger], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Log a table to every logger that can hold one.

    W&B gets a Table, TensorBoard text in Markdown. The CSV file begins with a column `step` and keeps the rows of
    other steps, so that a table that is logged repeatedly is one file.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_table(f"tables/{name}", columns=list(columns), data=[list(row) for row in rows], step=step)
        elif isinstance(logger, TensorBoardLogger):
            markdown = tabulate(rows, columns, tablefmt="github", floatfmt=".4f")
            logger.experiment.add_text(f"tables/{name}", markdown, step)
        elif isinstance(logger, CSVLogger):
            path = Path(logger.save_dir) / "tables" / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
            kept = [row for row in stored[1:] if row[0] != str(step)]
            with replacing(path) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows([["step", *columns], *kept, *([step, *row] for row in rows)])


def log_images(
    loggers: Iterable[Logger], name: str, images: Sequence[NDArray[np.uint8]], captions: Sequence[str], step: int
) -> None:
    """Log pictures, uint8 RGB (H,W,3) with one caption each, to every logger that can hold them.

    W&B keeps the captions. TensorBoard and the PNG files, which hold the last step's pictures, do not; several pictures
    are numbered there from 0.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            height, width = np.max([image.shape[:2] for image in images], axis=0)  # W&B shows pictures of one size
            same = [np.pad(x, ((0, height - x.shape[0]), (0, width - x.shape[1]), (0, 0))) for x in images]
            logger.log_image(f"images/{name}", same, step=step, caption=list(captions))
        for i, image in enumerate(images):
            tag = f"images/{name}_{i}" if len(images) > 1 else f"images/{name}"
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, image, step, dataformats="HWC")
            elif isinstance(logger, CSVLogger):
                path = Path(logger.save_dir) / f"{tag}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, image)


class RunWandbLogger(WandbLogger):
    """Logs a run to W&B: online where an account's key is found, else offline, in the run directory.

    The run's id, name and seed come from `run.json`, its config from `config.json`; both are read when something is
    first logged. A metric's step is the trainer's, so that the parts of a resumed run join. Uploaded are metrics,
    tables, pictures, config, commit, versions and machine; no code, no git diff, no terminal output.

    Args:
        run_dir: directory of the run; W&B's own files lie in its folder `wandb`.
        project: W&B project.
        entity: W&B user or team, None for the account's own.
        finish_timeout: seconds to wait at the end for uploads; the rest stays on disk.

    Raises:
        ValueError: when something is first logged: W&B refuses or cannot be reached.
    """

    def __init__(self, *, run_dir: str | Path, project: str, entity: str | None, finish_timeout: float) -> None:
        super().__init__(
            project=project,
            save_dir=run_dir,
            entity=entity,
            job_type="train",
            reinit="create_new",
            allow_val_change=True,  # a resumed run may use other threads
        )
        self.run_dir, self.finish_timeout = Path(run_dir), finish_timeout
        self.folder = self.run_dir / "wandb"

    @property
    @rank_zero_experiment
    def experiment(self) -> "Run | RunDisabled":
        """The W&B run, started on first access."""
        if self._experiment is not None:
            return self._experiment
        if not has_home():  # W&B does not start without one
            os.environ["HOME"] = str(self.folder.absolute())
        import wandb  # takes a second

        origin, config = (read_json_object(self.run_dir / name) for name in (RUN, CONFIG))
        for file in self.folder.glob("offline-run-*/*.wandb"):
            if file.stat().st_size <= HEADER_BYTES:  # of a killed process; `wandb sync` would stop at it
                shutil.rmtree(file.parent)
        settings = wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True)
        settings.x_transaction_log_flush_interval = 1.0  # seconds of an offline file that a killed run loses; else 15
        settings.finish_timeout, settings.finish_timeout_raises = self.finish_timeout, True
        experiment, _, swept = origin["name"].partition("/")
        facts = {key: origin.get(key) for key in ("versions", "machine", "weights", "shards")}
        facts["git"] = {key: value for key, value in (origin.get("git") or {}).items() if key in ("commit", "dirty")}
        self._wandb_init |= {
            "id": origin["id"],
            "config": {**config, "run": facts},
            "group": experiment,
            "name": f"{swept or experiment} seed{origin['seed']}",
        }
        try:
            self._experiment = wandb.init(**self._wandb_init | {"mode": wandb_mode()}, settings=settings)
        except wandb.Error as error:
            message = f"W&B: {one_line(error)[:300]}; WANDB_MODE=offline keeps the run on this machine"
            raise ValueError(message) from error
        os.environ.setdefault(STAGING, str(self.folder.absolute()))
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values at the trainer's step; W&B joins those of one step in one row."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finish(self, *, failed: bool) -> None:
        """End the W&B run, if it was started, as finished or as failed (exit code 1)."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning("W&B: not everything was uploaded; `wandb sync --include-online %s`", self.folder)
        for name in (STAGING, "HOME"):
            if os.environ.get(name) == str(self.folder.absolute()):  # not a user's own
                del os.environ[name]
        if self._experiment.offline or self._experiment.url:
            log.info("W&B: %s", self._experiment.url or f"upload with `wandb sync {self.folder}`")


def wandb_mode() -> str:
    """Return the mode of WANDB_MODE or `wandb offline`; else online where there is a key, else offline."""
    import wandb
    from requests.utils import get_netrc_auth

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if settings.mode != "online":
        return settings.mode
    known = settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)
    return "online" if known else "offline"
