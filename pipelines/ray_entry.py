"""What Ray Train calls in each worker process.

Ray's controller and its helper actors load the module of this function as well, and need none of
what the workers do: hence the import inside it and settings that travel as bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping


def train_worker(settings: Mapping[str, bytes]) -> dict[str, float]:
    """Run one worker's part of the training run that `settings["spec"]` describes."""
    from pipelines.ray_session import run_worker  # noqa: PLC0415 - see above

    spec = pickle.loads(settings["spec"])  # from our own driver, never from a file
    return run_worker(spec, settings["attempt"].decode())
