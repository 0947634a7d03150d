"""Clean output: Ray's environment, and one log file for what libraries say.

People see our progress on stderr and results on stdout. Everything else (warnings, library logs)
goes to a file in the run directory whose place is printed.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from data_shards.location import Location
from fsl.errors import StorageError

ENVIRONMENT = {
    # Token authentication: a local cluster makes its own token (~/.ray/auth_token), and nobody
    # else on the machine can join. cluster.yaml sets the same mode. Written down because an
    # unset mode depends on whether this machine ever ran Ray before.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; silences a warning
    "RAY_DEDUP_LOGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
OURS = ("fsl", "data_shards", "pipelines", "tuning")


def prepare_environment() -> None:
    """Set what Ray reads at import; values that are already set are respected."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def configure_logging(root: Location) -> Path:
    """Send our messages to stderr, and everything to a log file; return the file.

    Args:
        root: the run directory. Where it is not on this machine's disk the log file is in the
            temporary directory.
    """
    if root.local is not None:
        directory = root.local / "logs"
    else:
        directory = Path(tempfile.gettempdir()) / f"fewshot-logs-{os.getuid()}" / root.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{directory}: cannot be made: {error.strerror}; choose another run_dir"
        ) from error
    path = directory / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    to_file = _LogFile(path, encoding="utf-8", delay=True)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_people = _BesideBars()
    to_people.addFilter(_worth_showing)
    to_people.setFormatter(_Plain())
    everything = logging.getLogger()
    _remove_ours(everything)
    for handler in (to_file, to_people):
        everything.addHandler(handler)
    everything.setLevel(logging.INFO)
    logging.captureWarnings(True)
    if not sys.warnoptions:  # the file takes every warning once per place
        warnings.simplefilter("default")
    return path


def release_logging() -> None:
    """Close what `configure_logging` opened (tests run several commands in one process)."""
    _remove_ours(logging.getLogger())
    logging.captureWarnings(False)


class _BesideBars(logging.Handler):
    """Writes lines to stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            from tqdm import tqdm  # noqa: PLC0415 - only a run that logs pays for the import

            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # a logger must never break the run
            self.handleError(record)


class _LogFile(logging.FileHandler):
    """A log file that stays silent when the disk is full: the run's own message matters."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record


class _Plain(logging.Formatter):
    """`message` for information, `warning: message` for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _worth_showing(record: logging.LogRecord) -> bool:
    """Return whether people see the record: ours, and errors of libraries other than Ray."""
    source = record.name.partition(".")[0]
    return source in OURS or (record.levelno >= logging.ERROR and source != "ray")


def _remove_ours(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        if isinstance(handler, (_BesideBars, _LogFile)):
            logger.removeHandler(handler)
            handler.close()
