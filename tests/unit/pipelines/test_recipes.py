"""Every recipe in recipes/: valid, its stages fit together, its trainings can be built.

The data they name are not here, so stand-ins take their place in the plan; nothing is run.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_shards.leo import FILES
from fsl.backbones.features import FeaturesConfig
from fsl.config import build, load_recipe
from fsl.errors import ConfigError
from pipelines.model import fresh_method
from pipelines.resolve import resolved
from pipelines.runner import PipelineConfig, plan, run_pipeline
from pipelines.stage import PlannedStage, inputs_giving
from pipelines.train_config import TrainConfig
from pipelines.training_data import batcher_of

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GENERATED = {"name": "strokes"}


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of one class per split, as LEO's files have them."""
    folder = tmp_path_factory.mktemp("leo")
    for split, name in FILES.items():
        content = {"keys": [f"0-{split}-{split}_0"], "embeddings": np.ones((1, 4), np.float32)}
        (folder / name).write_bytes(pickle.dumps(content, 2))
    return folder


@pytest.fixture(params=RECIPES, ids=lambda path: str(path.stem))
def recipe(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def planned(recipe: Path, embeddings: Path, tmp_path: Path) -> dict[str, PlannedStage]:
    """The recipe's stages with data that are here, or will be made."""
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for label, stage in tree["stages"].items():
        if stage["kind"] in {"write_shards", "use_shards"}:
            tree["stages"][label] = {"kind": "write_shards", "source": GENERATED}
        elif stage["kind"] == "import_features":
            stage["leo"] = str(embeddings)
    return plan(build(PipelineConfig, {**tree, "run_dir": str(tmp_path / "run")}))


def settled(stage: PlannedStage) -> TrainConfig:
    """What a train stage will train, with 5 classes, or vectors of length 8, for the data."""
    models = inputs_giving(stage.inputs, "model")
    earlier = settled(models[0]) if models else None
    config = resolved(stage.config, earlier, bool(inputs_giving(stage.inputs, "features")))
    classes = {f"attribute object{number}": 20 for number in range(5)}
    config = config.model_copy(update={"method": config.method.knowing(classes)})
    if isinstance(config.backbone, FeaturesConfig):
        config = config.model_copy(update={"backbone": FeaturesConfig(size=8)})
    return config


def outside_place(settings: Any) -> str | None:
    """Where a recipe's first stage looks for data; None when they are generated."""
    if settings.kind == "write_shards":
        root = getattr(settings.source, "root", None)
        return None if root is None else str(root)
    return str(settings.path if settings.kind == "use_shards" else settings.leo)


def test_every_stage_has_a_place_in_the_plan_of_each_recipe(
    planned: dict[str, PlannedStage],
) -> None:
    assert {stage.state for stage in planned.values()} == {"run"}


def test_every_training_of_each_recipe_can_be_built(planned: dict[str, PlannedStage]) -> None:
    trained = [stage for stage in planned.values() if stage.config.kind == "train"]
    assert trained
    for stage in trained:
        config = settled(stage)
        method = fresh_method(config, pretrained=False)
        assert any(parameter.requires_grad for parameter in method.parameters())
        batcher_of(config, lambda size: (size // 16, size // 16))


def test_a_recipe_whose_data_are_missing_says_which(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative places start here, where nothing is
    config = build(PipelineConfig, yaml.safe_load(recipe.read_text(encoding="utf-8")))
    label, settings = next(iter(config.stages.items()))
    place = outside_place(settings)
    if place is None:
        assert plan(config)
        return
    with pytest.raises(ConfigError, match=f"stages.{label} .*{re.escape(place)}"):
        plan(config)


def test_the_head_comment_says_how_to_run_the_recipe(recipe: Path) -> None:
    head = recipe.read_text(encoding="utf-8").partition("\n\n")[0]
    assert f"fewshot run recipes/{recipe.name}" in head
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("name", ["mini_imagenet_awgim", "tiered_imagenet_awgim"])
def test_recipes_of_the_published_awgim_step_as_tensorflow_does(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", PipelineConfig)
    trained = [stage for stage in recipe.stages.values() if isinstance(stage, TrainConfig)]
    assert [stage.optim.epsilon_before_correction for stage in trained] == [True] * 4


@pytest.mark.slow
def test_the_methods_on_strokes_run_to_the_report(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "recipes" / "strokes_methods.yaml").read_text(encoding="utf-8"))
    tree["stages"]["shards"]["source"] |= {"characters": 21, "images": 12, "base_alphabets": 2}
    for stage in tree["stages"].values():
        if stage["kind"] == "train":
            stage["optim"] |= {"epochs": 1}
            stage["validation"] |= {"tasks": 10}
        if "episodes" in stage:
            stage["episodes"] |= {"per_epoch": 8}
    tree["stages"]["evaluate"]["tasks"] = 20
    results = run_pipeline(build(PipelineConfig, {**tree, "run_dir": str(tmp_path / "run")}))
    answered = {name.split("_")[0] for name in results["evaluate"].metrics}
    assert {"awgim", "crosstransformer", "features", "protonet", "simclr"} <= answered
    assert (tmp_path / "run" / "report.html").exists()
