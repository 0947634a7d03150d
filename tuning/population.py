"""Population-based training (Jaderberg et al., arXiv:1711.09846) of a recipe's judged stage.

All members train at once; every few epochs the worst take over weights and settings of the best,
the settings a little changed. So the result is a model, and a schedule of settings that no recipe
could state: the study gets one trial per member with its last settings, and its way in a file.

Only settings that can change in the middle of a training are searched: not those that decide the
batches, the shape of the network, the optimizer or the length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from data_shards.location import Location
from fsl.config import build, digest
from fsl.errors import ConfigError, StageError
from pipelines.checkpoint import DIRECTORY, MANIFEST, find_checkpoints, trained_config
from pipelines.local_trainer import run_here
from pipelines.model import fresh_method
from pipelines.quiet import prepare_environment
from pipelines.resolve import filled_in, resolved
from pipelines.runner import PipelineConfig, run_pipeline
from pipelines.stage import StageResult, inputs_giving
from pipelines.stages.train import data_source, plan_steps, run_spec
from pipelines.train_config import TrainConfig
from pipelines.trainer import TrainSpec
from pipelines.training_data import open_data
from pipelines.watch import Report, TrainingStopped, watching

HISTORY = "history.jsonl"
FIXED_SECTIONS = ("data", "episodes", "backbone", "images", "validation", "init")
FIXED_SETTINGS = ("optim.epochs", "optim.optimizer")
"""A takeover needs the same moments, and the end at the same step."""


@dataclass(frozen=True)
class MemberJob:
    """What every member is told.

    Attributes:
        recipe: the pipeline up to the judged stage, as a plain mapping.
        objective: label of that stage.
        keys: recipe key of each searched setting, by its name in the study.
        place: folder of the members' directories.
    """

    recipe: Mapping[str, Any]
    objective: str
    keys: Mapping[str, str]
    place: str

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @property
    def digest(self) -> str:
        """Identity of the population: its members' checkpoints may be exchanged."""
        return digest({"population": self.recipe, "keys": dict(self.keys)})


class Member(Trainable):
    """One member: a step is a training until the next validation."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare a member."""
        prepare_environment()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another member, or take over other settings."""
        self.job = MemberJob(**json.loads(new_config["job"]))
        self.out = Location.parse(self.job.place) / self.trial_id
        self.out.make_dir()
        self.values = {name: new_config[name] for name in self.job.keys}
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next validation."""
        spec, total_steps = self._spec()
        self.report: Report | None = None
        try:
            with watching(self._pause):
                run_here(spec, total_steps)
        except TrainingStopped:
            assert self.report is not None
        report = self.report
        if report is None:  # begun again after its end
            return {**self._last(), "done": True}
        percent = 100 * report.step // report.total_steps
        line = {"percent": percent, "value": report.metrics["val_accuracy"]}
        with (self._folder() / HISTORY).open("a") as stream:
            stream.write(json.dumps({**line, "epochs": report.epoch, "params": self.values}) + "\n")
        return {**line, "done": report.step == report.total_steps}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Hand out the newest checkpoint."""
        found = find_checkpoints(self.out)
        (self.out / DIRECTORY / list(found)[-1]).download(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from another member's checkpoint, or from one's own."""
        source = Path(checkpoint_dir)
        step = json.loads((source / MANIFEST).read_text())["step"]
        (self.out / DIRECTORY).delete()
        (self.out / DIRECTORY / f"step-{step:08d}").upload(source)

    def _pause(self, report: Report) -> bool:
        self.report = report
        return report.step == report.total_steps

    def _folder(self) -> Path:
        folder: Path | None = self.out.local
        assert folder is not None
        return folder

    def _last(self) -> dict[str, Any]:
        lines = (self._folder() / HISTORY).read_text().splitlines()
        last = json.loads(lines[-1])
        return {"percent": last["percent"], "value": last["value"]}

    def _spec(self) -> tuple[TrainSpec, int]:
        """Return the judged stage's training with the settings of now."""
        values = {key: self.values[name] for name, key in self.job.keys.items()}
        recipe = build(PipelineConfig, self.job.recipe, values)
        stage = recipe.stages[self.job.objective]
        assert isinstance(stage, TrainConfig)
        before = {k: v for k, v in recipe.stages.items() if k != self.job.objective}
        results = run_pipeline(recipe.model_copy(update={"stages": before}), shared=True)
        inputs = {label: results[label] for label in stage.needs}
        config, model, source = with_inputs(stage, recipe.seed, inputs)
        data = open_data(source.path, source.gives == "features")
        spec = run_spec(filled_in(config, data), data, self.out, model)
        spec = replace(spec, digest=self.job.digest, watched=True)
        return spec, plan_steps(spec.config, data)


def with_inputs(
    stage: TrainConfig, seed: int, inputs: Mapping[str, StageResult]
) -> tuple[TrainConfig, StageResult | None, StageResult]:
    """Return a train stage's settings resolved by its inputs, the model and the data it takes."""
    models = inputs_giving(inputs, "model")
    source = data_source(inputs)
    earlier = trained_config(models[0].path) if models else None
    if stage.seed is None:
        stage = stage.model_copy(update={"seed": seed})
    config = resolved(stage, earlier, source.gives == "features")
    return config, models[0] if models else None, source


def check_changeable(key: str, objective: str) -> None:
    """Refuse a setting that cannot change in the middle of a training.

    Args:
        key: dotted key in the recipe.
        objective: label of the judged stage.

    Raises:
        ConfigError: batches, optimizer or length would be others.
    """
    prefix = f"stages.{objective}."
    own = key.removeprefix(prefix)
    fixed = own in FIXED_SETTINGS or own.partition(".")[0] in FIXED_SECTIONS
    if not key.startswith(prefix) or fixed:
        raise ConfigError(
            f"search: {key} cannot change while a population trains; search other settings of "
            "method or optim of the judged stage, or remove the population section"
        )


def check_same_network(key: str, settings: Sequence[TrainConfig]) -> None:
    """Refuse a setting with which members could not take over each other's weights.

    Args:
        key: dotted key in the recipe.
        settings: the judged stage's settings, resolved, one for each value to be compared.

    Raises:
        ConfigError: the network would be another.
    """
    try:
        first, *others = [
            {name: tuple(value.shape) for name, value in fresh_method(config).state_dict().items()}
            for config in settings
        ]
    except StageError as error:
        raise ConfigError(f"search: {key}: {error}") from error
    if any(shapes != first for shapes in others):
        raise ConfigError(
            f"search: {key} decides the shape of the network, which a population shares; remove it "
            "from search, or the population section"
        )
