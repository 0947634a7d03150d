"""Checkpoints: everything a training run needs to go on, in a directory that proves itself whole.

`model.safetensors` holds the method (student, teacher, centres), `state.pt` the optimizer's
moments and the gradient scaler, `checkpoint.json` the position, the settings, and the list of the
two files with size and sha256. Storage may merge a half-uploaded directory with a later one; the
list is what detects it. Optimizer state is kept by parameter name, never by number.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from data_shards.location import Location
from fsl.config import build
from fsl.errors import CheckpointError, ConfigError, StorageError
from fsl.method import Method
from pipelines.addition_weights import with_own_additions
from pipelines.optim import optimizer_state, restore_optimizer
from pipelines.train_config import TrainConfig

FORMAT = 1
MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "checkpoint.json"
DIRECTORY = "checkpoints"
SCORE = "val_accuracy"
Which = Literal["best", "last"]


@dataclass(frozen=True)
class CheckpointInfo:
    """What `checkpoint.json` says."""

    step: int
    epoch: int
    world_size: int
    digest: str
    """Of everything that makes the run: settings, data, seed, start."""
    config: dict[str, Any]
    """The train stage's settings, images and backbone resolved."""
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


def write_checkpoint(
    directory: Path,
    info: CheckpointInfo,
    method: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write a checkpoint into the existing local `directory`; the manifest comes last.

    Raises:
        StorageError: there is no room for it.
    """
    tensors = {key: value.detach().cpu().clone() for key, value in method.state_dict().items()}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    state = {"optimizer": optimizer_state(optimizer, method), "scaler": scaler.state_dict()}
    try:
        save_file(tensors, directory / MODEL)
        torch.save(state, directory / STATE)
    except (SafetensorError, RuntimeError, OSError) as error:  # as a full disk makes them
        raise StorageError(
            f"{directory}: a checkpoint cannot be written into the temporary directory: "
            f"{' '.join(str(error).split())}; make room there, or name another directory in the "
            "environment variable TMPDIR, then run the same command again to continue"
        ) from error
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": _sha256(directory / name)}
        for name in (MODEL, STATE)
    }
    text = json.dumps({**asdict(info), "files": files}, indent=1)
    (directory / MANIFEST).write_text(text, encoding="utf-8")


class Checkpoint:
    """An opened, verified checkpoint on local disk.

    Args:
        directory: where it is.
        digest: of the run that wants to continue it; None accepts any.
        name: how messages call it (its address, where `directory` is a copy).

    Raises:
        CheckpointError: no checkpoint, a damaged one, or one of another configuration.
    """

    def __init__(self, directory: Path, digest: str | None = None, name: str = "") -> None:
        self.directory, self.name = directory, name or str(directory)
        self.info = _read_info(directory / MANIFEST, self.name)
        for file, expected in self.info.files.items():
            self._verify(file, expected)
        if digest is not None and digest != self.info.digest:
            raise CheckpointError(
                f"{self.name}: made with other settings, data or seed (digest "
                f"{self.info.digest[:12]}, this run has {digest[:12]}); undo the change, or give "
                "the run another directory"
            )

    def restore_model(self, method: nn.Module) -> None:
        """Load the weights; names the first keys that differ."""
        tensors = self._tensors()
        _same_architecture(self.name, tensors, method.state_dict())
        method.load_state_dict(tensors)

    def restore_method(self, method: nn.Module) -> set[str]:
        """Load the weights of a method; its additions may be others than it was trained with.

        Returns:
            The additions that were not there before with tensors of equal shapes: those of the
            method keep their fresh weights, and moments of none of them fit.
        """
        wanted = method.state_dict()
        tensors, others = with_own_additions(self._tensors(), wanted)
        other = ", or set init: {restore: backbone} to take over the network alone"
        _same_architecture(self.name, tensors, wanted, other)
        method.load_state_dict(tensors)
        return others

    def restore_backbone(self, method: Method[Any]) -> None:
        """Load the weights of the backbone, whatever method it was trained with.

        A method's slow copy of it (`teacher_backbone`) starts from the same weights.
        """
        prefix = "backbone."
        tensors = {
            key.removeprefix(prefix): value
            for key, value in self._tensors().items()
            if key.startswith(prefix)
        }
        _same_architecture(self.name, tensors, method.backbone.state_dict())
        method.backbone.load_state_dict(tensors)
        teacher = getattr(method, "teacher_backbone", None)
        if teacher is not None:
            teacher.load_state_dict({key: tensors[key] for key in teacher.state_dict()})

    def _tensors(self) -> dict[str, Tensor]:
        try:
            return load_file(self.directory / MODEL)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.name}/{MODEL}: {error}; {_REMEDY}") from None

    def restore_training(
        self,
        method: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        other_additions: Collection[str] = (),
    ) -> None:
        """Load the optimizer's moments, but not of `other_additions`, and the gradient scaler."""
        try:
            state = torch.load(self.directory / STATE, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
            raise CheckpointError(f"{self.name}/{STATE}: {error}; {_REMEDY}") from None
        starts = tuple(f"additions.{name}." for name in other_additions)
        moments = {k: v for k, v in state["optimizer"].items() if not k.startswith(starts)}
        restore_optimizer(optimizer, method, moments, self.name)
        if scaler.is_enabled() and state["scaler"]:
            scaler.load_state_dict(state["scaler"])

    def _verify(self, file: str, expected: Mapping[str, Any]) -> None:
        path = self.directory / file
        if not path.is_file():
            raise CheckpointError(f"{self.name}: {file} is missing; {_REMEDY}")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"{self.name}/{file}: {path.stat().st_size} bytes, its manifest says "
                f"{expected['bytes']}; {_REMEDY}"
            )
        if _sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{self.name}/{file}: its checksum is wrong; {_REMEDY}")


_REMEDY = f"the checkpoint is damaged: delete the directory {DIRECTORY} above it to train again"


def _same_architecture(
    name: str, saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor], other_remedy: str = ""
) -> None:
    faults = [f"{key} is missing in it" for key in wanted if key not in saved]
    faults += [f"{key} is unknown here" for key in saved if key not in wanted]
    faults += [
        f"{key} has shape {tuple(saved[key].shape)}, here {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in saved and saved[key].shape != value.shape
    ]
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if faults[3:] else "")
        raise CheckpointError(
            f"{name}: weights of another architecture: {shown}. Make backbone, images and method "
            f"equal to those it was trained with{other_remedy}"
        )


def find_checkpoints(stage_path: Location) -> dict[str, CheckpointInfo]:
    """Return name -> info of the whole checkpoints below a train stage, oldest first."""
    directory = stage_path / DIRECTORY
    found: dict[str, CheckpointInfo] = {}
    for place in directory.list() if directory.exists() else []:
        if (place / MANIFEST).exists():
            info = _parse_info((place / MANIFEST).read_text(), str(place))
            sizes = {file: entry["bytes"] for file, entry in info.files.items()}
            if all((place / f).exists() and (place / f).size() == n for f, n in sizes.items()):
                found[place.name] = info
    return dict(sorted(found.items(), key=lambda item: item[1].step))


def write_pointers(stage_path: Location) -> dict[Which, CheckpointInfo]:
    """Write `best.json` and `last.json`, which name a checkpoint each, and return what they name.

    The best is the one of highest validation accuracy, the earliest of equals; without any
    validation it is the last.
    """
    found = find_checkpoints(stage_path)
    if not found:
        raise CheckpointError(f"{stage_path}: training ended without a checkpoint; run it again")
    last = list(found)[-1]
    scored = {name: info.metrics[SCORE] for name, info in found.items() if SCORE in info.metrics}
    best = max(scored, key=lambda name: scored[name]) if scored else last
    names: dict[Which, str] = {"best": best, "last": last}
    for which, name in names.items():
        pointer = {"checkpoint": f"{DIRECTORY}/{name}", **found[name].metrics}
        (stage_path / f"{which}.json").write_text(json.dumps(pointer, indent=1))
    return {which: found[name] for which, name in names.items()}


@contextmanager
def open_checkpoint(stage_path: Location, which: Which) -> Iterator[Checkpoint]:
    """Yield the best or last checkpoint of a finished train stage, on local disk."""
    place = stage_path / _pointed(stage_path, which)
    if place.local is not None:
        yield Checkpoint(place.local, name=str(place))
        return
    with tempfile.TemporaryDirectory() as directory:
        place.download(Path(directory))
        yield Checkpoint(Path(directory), name=str(place))


def _pointed(stage_path: Location, which: Which) -> str:
    """Return the path of a checkpoint relative to its stage."""
    pointer = stage_path / f"{which}.json"
    if not pointer.exists():
        raise CheckpointError(f"{stage_path}: no finished train stage ({which}.json is missing)")
    name: str = json.loads(pointer.read_text())["checkpoint"]
    if not (stage_path / name).exists():
        raise CheckpointError(f"{stage_path}: {name}, named by {which}.json, is gone; train again")
    return name


def trained_config(stage_path: Location) -> TrainConfig:
    """Return the settings of a finished train stage, images and backbone resolved."""
    place = stage_path / _pointed(stage_path, "last") / MANIFEST
    return settings_of(_parse_info(place.read_text(), str(place.parent)), str(place))


def settings_of(info: CheckpointInfo, name: str) -> TrainConfig:
    """Return the train stage's settings in a checkpoint."""
    try:
        return build(TrainConfig, info.config, origin=name)
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint was made by another version") from None


def _read_info(path: Path, name: str) -> CheckpointInfo:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise CheckpointError(f"{name}: no readable {MANIFEST}; {_REMEDY}") from None
    return _parse_info(text, name)


def _parse_info(text: str, name: str) -> CheckpointInfo:
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{name}: checkpoint format {values['format']}, this program reads {FORMAT}"
            )
        return CheckpointInfo(**values)
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{name}: {MANIFEST} is not one of ours; {_REMEDY}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
