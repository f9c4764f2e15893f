"""The W&B logger: one run a run directory, under an id that stays when the run goes on."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

if TYPE_CHECKING:
    from wandb import Run, Settings
    from wandb.sdk.lib import RunDisabled

log = logging.getLogger(__name__)

STAGING = "WANDB_DATA_DIR"  # where wandb keeps what belongs to a table until it is uploaded
FLUSH_SECONDS = 1.0  # what a killed run may lose of its offline file; wandb's own choice is 15
HEADER_BYTES = 7  # of an offline file that nothing was written to
ABANDONED_SECONDS = 60.0  # younger files may just not have been written to yet


class RunWandbLogger(WandbLogger):
    """Logs a run to W&B: online where an account's key is found, else offline, in the run directory.

    Id, name and seed are those of `run.json`, the config that of `config.json`; both are read when something is first
    logged. A metric's step is the trainer's, so that the parts of a run that was stopped and went on join. What is
    uploaded: metrics, tables, pictures, config, commit, versions, machine; no code, no git diff, no terminal output.

    Args:
        run_dir: directory of the run; W&B's own files lie in its folder `wandb`.
        project: W&B project.
        entity: W&B user or team, None for the account's own.
        finish_timeout: seconds to wait at the end for what is not uploaded yet; the rest stays on disk.

    Raises:
        ValueError: when something is first logged: the directory is no run, or W&B refuses or cannot be reached.
    """

    def __init__(self, *, run_dir: str | Path, project: str, entity: str | None, finish_timeout: float) -> None:
        super().__init__(project=project, save_dir=run_dir, entity=entity)
        self.run_dir, self.finish_timeout = Path(run_dir), finish_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> "Run | RunDisabled":
        """The W&B run, begun when first asked for."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    def _begin(self) -> "Run":
        import wandb

        try:
            origin, config = (json.loads((self.run_dir / name).read_text()) for name in ("run.json", "config.json"))
        except OSError as error:
            raise ValueError(f"W&B logger: {error.filename}: {error.strerror}; begin the run first") from None
        _remove_empty_parts(self.run_dir / "wandb")
        settings = wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True)
        settings.x_transaction_log_flush_interval = FLUSH_SECONDS
        settings.finish_timeout, settings.finish_timeout_raises = self.finish_timeout, True
        group, title = _titles(origin["name"], origin["seed"])
        try:
            mode = _mode(settings)
            run = wandb.init(
                mode=mode,  # type: ignore[arg-type]  # one of its own settings
                project=self._wandb_init["project"],
                entity=self._wandb_init["entity"],
                dir=str(self.run_dir),
                id=origin["id"],
                resume="allow" if mode == "online" else None,
                config={**config, "run": _public(origin)},
                allow_val_change=True,  # a run that goes on may have been given more threads
                reinit="create_new",
                group=group,
                name=title,
                job_type="train",
                settings=settings,
            )
        except wandb.Error as error:
            text = " ".join(str(error).split())
            raise ValueError(f"W&B: {text[:300]}; WANDB_MODE=offline keeps the run on this machine") from error
        if run.url:
            log.info("W&B: %s", run.url)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values at the trainer's step; W&B joins those of one step in one row."""
        with _staged_in(self.run_dir / "wandb"):
            self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finish(self, *, failed: bool) -> None:
        """End the W&B run, if it was begun, as finished or as failed."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning("W&B: not everything was uploaded; `wandb sync --include-online %s`", self.run_dir / "wandb")
        if self._experiment.offline:
            log.info("W&B, offline: upload with `wandb sync %s`", self.run_dir / "wandb")


def _mode(given: "Settings") -> str:
    """Return the mode that is set by WANDB_MODE or `wandb offline`; else online where there is a key, else offline."""
    import wandb
    from requests.utils import get_netrc_auth  # wandb's own dependency

    settings = wandb.setup(given).settings
    if settings.mode != "online":
        return settings.mode
    known = settings.api_key or settings.identity_token_file or get_netrc_auth(settings.base_url)
    return "online" if known else "offline"


def _remove_empty_parts(folder: Path) -> None:
    """Remove the offline files of earlier starts that were killed at once: `wandb sync` stops at the first of them."""
    for file in folder.glob("offline-run-*/*.wandb"):
        known = file.stat()
        if known.st_size <= HEADER_BYTES and time.time() - known.st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(file.parent)


def _titles(name: str, seed: int) -> tuple[str, str]:
    """Return the group, which is the experiment, and the title: what was swept (else the experiment), and the seed."""
    group, _, swept = name.partition("/")
    return group, f"{swept or name} seed{seed}"


def _public(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run's origin is uploaded: the code's commit, but not its uncommitted lines."""
    git = origin.get("git") or {}
    kept = {key: origin[key] for key in ("versions", "machine", "weights", "shards") if key in origin}
    return {"git": {key: git[key] for key in ("commit", "dirty") if key in git}, **kept}


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Let wandb stage a table's files in a folder and not in the user's home, unless the user has named a place."""
    if STAGING in os.environ:
        yield
        return
    os.environ[STAGING] = str(folder)
    try:
        yield
    finally:
        del os.environ[STAGING]
