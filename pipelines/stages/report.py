"""The report stage: one HTML file about the accuracies it needs and all that they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from fsl.config import build
from fsl.errors import FewShotError, StageError
from fsl.images import ShownImages
from fsl.methods.distillation import Distillation
from pipelines.accuracies import read_summary
from pipelines.image_store import ImageStore
from pipelines.model import LoadedModel, load_model
from pipelines.report.episode import load_bank, shown_episode
from pipelines.report.history import StageRecord, history
from pipelines.report.page import Page
from pipelines.report.patches import masked_views, patch_match
from pipelines.stage import ANY, STAGES, Count, Stage, StageConfig, StageResult, inputs_giving

NAME = "report.html"
SHOWN_MASKS = 4


class ReportConfig(StageConfig):
    """Settings of a report stage."""

    kind: Literal["report"] = "report"
    title: str = "Few-shot run"
    """Heading of the page."""
    episode: Annotated[int, Field(ge=0)] = 0
    """Number of the episode that is shown with its images."""


@STAGES.register("report")
class ReportStage(Stage[ReportConfig]):
    """Writes `report.html` here and copies it to the run directory."""

    Config = ReportConfig
    gives = "report"
    takes: ClassVar[Mapping[str, Count]] = {"accuracies": ANY, "*": ANY}

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Collect, draw, write."""
        shown = [stage for stage in inputs.values() if stage.gives != "shards"]
        stages = history([stage.path for stage in shown], [stage.label for stage in shown])
        evaluations = inputs_giving(inputs, "accuracies")
        page = Page(self.config.title, [read_summary(e.path) for e in evaluations], stages)
        if not evaluations:
            page.left_out.append("No accuracies: the recipe's report needs no evaluate stage.")
        else:
            _draw(page, "sample episode", lambda: self._episode(page, evaluations[0].path))
        models = {
            label: load_model(stage.path)
            for label, stage in stages.items()
            if stage.kind == "train"
        }
        if any(isinstance(model.method, Distillation) for model in models.values()):
            _draw(page, "mask pictures", lambda: _masks(page, models))
            _draw(page, "patch matches", lambda: _match(page, models))
        html = page.render()
        for place in (out / NAME, out.parent / NAME):
            place.write_text(html)
        return {"bytes": float(len(html.encode()))}

    def _episode(self, page: Page, place: Location) -> None:
        """Show an episode of the first evaluation as its last model of images answered it."""
        summary, stages = page.summaries[0], history([place])
        name, model = last_model(summary, stages)
        split = _shards(list(stages.values())[-1], stages).split(summary["split"])
        bank = load_bank(place, summary["banks"][0]["file"])
        bank.refuse_other(split)
        number = min(self.config.episode, len(bank.support) - 1)
        page.episode = shown_episode(bank, number, split, model, name)


def _draw(page: Page, what: str, draw: Callable[[], None]) -> None:
    """Draw a piece of the page, or say why not: a page without pictures is better than none."""
    try:
        draw()
    except FewShotError as error:
        page.left_out.append(f"No {what}: {error}.")


def last_model(
    summary: Mapping[str, Any], stages: Mapping[str, StageRecord]
) -> tuple[str, LoadedModel]:
    """Return the last evaluated model that answers images, and its label."""
    for entry in reversed(summary["models"]):
        record = stages.get(entry["label"])
        if record is not None and record.kind == "train":
            shown = summary.get("shown") and build(ShownImages, summary["shown"])
            model = load_model(record.path, summary["which"], shown)
            if not model.on_vectors:
                return entry["label"], model
    raise StageError("no trained model of images was evaluated")


def _shards(user: StageRecord, stages: Mapping[str, StageRecord]) -> ShardSet:
    """Return the shard set among the needs of a stage, wherever it lies."""
    for record in (stages[name] for name in user.needs):
        kind = STAGES.get(record.kind)
        if kind.gives == "shards" and record.config:
            return ShardSet.open(kind(build(kind.Config, record.config)).place(record.path))
    raise StageError(f"there are no shards among what {user.label!r} was made from")


def _masks(page: Page, models: Mapping[str, LoadedModel]) -> None:
    """Show what the student of the first distillation stage does not see."""
    for label, model in models.items():
        if isinstance(model.method, Distillation):
            split = _shards(page.stages[label], page.stages).split(model.config.splits[0])
            rows = np.linspace(0, len(split) - 1, SHOWN_MASKS).astype(np.int64)
            images = ImageStore(split, model.images.mode).images(rows)
            page.masks, page.mask_model = masked_views(model, images), label
            return


def _match(page: Page, models: Mapping[str, LoadedModel]) -> None:
    """Show the patches that the last supervised stage matches between two images of a class."""
    for label, model in reversed(list(models.items())):
        method: Any = model.method
        if isinstance(method, Distillation) and model.config.method.name == "smkd":
            shards = _shards(page.stages[label], page.stages)
            split = shards.split("novel" if "novel" in shards.splits else shards.splits[-1])
            rows, page.match_class = _pair(split)
            images = ImageStore(split, model.images.mode).images(rows)
            page.match, page.match_model = patch_match(model, images), label
            return
    raise StageError("the recipe has no supervised stage (smkd)")


def _pair(split: Split) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Return two rows of the first class with two images, and its name."""
    rows = split.class_rows()
    label = int(np.argmax(rows.counts >= 2))
    if rows.counts[label] < 2:
        raise StageError(f"no class of split {split.name!r} has two images")
    return rows.of(label)[:2], split.class_names[label]
