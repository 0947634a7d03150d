"""The report stage: one HTML file about the accuracies it needs and all that they came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from fsl.methods.distillation import Distillation
from pipelines.accuracies import read_summary
from pipelines.image_store import ImageStore
from pipelines.model import LoadedModel, load_model
from pipelines.report.episode import load_bank, shown_episode
from pipelines.report.history import history
from pipelines.report.page import Page
from pipelines.report.patches import masked_views, patch_match
from pipelines.stage import ANY, STAGES, Count, Stage, StageConfig, StageResult, inputs_giving

NAME = "report.html"
SHARDS = ("write_shards", "use_shards")
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
        stages = history([stage.path for stage in inputs.values() if stage.gives != "shards"])
        evaluations = inputs_giving(inputs, "accuracies")
        page = Page(self.config.title, [read_summary(e.path) for e in evaluations], stages)
        if not evaluations:
            page.left_out.append("No accuracies: the recipe's report needs no evaluate stage.")
        loaded = {
            label: load_model(stage.path)
            for label, stage in stages.items()
            if stage.kind == "train"
        }
        models = {label: model for label, model in loaded.items() if not model.on_vectors}
        shards = _shards(inputs, page)
        if shards is None:
            page.left_out.append("No pictures: no shards among what the report was made from.")
        else:
            self._episode(page, evaluations, models, shards)
            if any(isinstance(model.method, Distillation) for model in models.values()):
                _masks(page, models, shards)
                _match(page, models, shards)
        html = page.render()
        for place in (out / NAME, out.parent / NAME):
            place.write_text(html)
        return {"bytes": float(len(html.encode()))}

    def _episode(
        self,
        page: Page,
        evaluations: list[StageResult],
        models: Mapping[str, LoadedModel],
        shards: ShardSet,
    ) -> None:
        """Show an episode as the last evaluated model answered it."""
        names = [
            entry["label"]
            for summary in page.summaries[:1]
            for entry in summary["models"]
            if entry["label"] in models
        ]
        if not names:
            page.left_out.append("No sample episode: no trained model was evaluated.")
            return
        summary, place, model = page.summaries[0], evaluations[0].path, models[names[-1]]
        split = shards.split(summary["split"])
        if summary["which"] != "best":
            model = load_model(page.stages[names[-1]].path, summary["which"])
        bank = load_bank(place, summary["banks"][0]["file"])
        number = min(self.config.episode, len(bank.support) - 1)
        page.episode = shown_episode(bank, number, split, model, names[-1])


def _shards(inputs: Mapping[str, StageResult], page: Page) -> ShardSet | None:
    """Return the shard set among the inputs, or the one they were made from."""
    for stage in inputs_giving(inputs, "shards"):
        return ShardSet.open(stage.path)
    for record in page.stages.values():
        if record.kind in SHARDS and (record.path / "index.parquet").exists():
            return ShardSet.open(record.path)
    return None


def _masks(page: Page, models: Mapping[str, LoadedModel], shards: ShardSet) -> None:
    """Show what the student of the first distillation stage does not see."""
    for label, model in models.items():
        if isinstance(model.method, Distillation):
            split = shards.split(model.config.splits[0])
            rows = np.linspace(0, len(split) - 1, SHOWN_MASKS).astype(np.int64)
            images = ImageStore(split, model.images.mode).images(rows)
            page.masks, page.mask_model = masked_views(model, images), label
            return
    page.left_out.append("No mask pictures: no stage of masked distillation was trained.")


def _match(page: Page, models: Mapping[str, LoadedModel], shards: ShardSet) -> None:
    """Show the patches that the last supervised stage matches between two images of a class."""
    for label, model in reversed(list(models.items())):
        method: Any = model.method
        if isinstance(method, Distillation) and model.config.method.name == "smkd":
            split = shards.split("novel" if "novel" in shards.splits else shards.splits[-1])
            rows, page.match_class = _pair(split)
            images = ImageStore(split, model.images.mode).images(rows)
            page.match, page.match_model = patch_match(model, images), label
            return
    page.left_out.append("No patch matches: the recipe has no supervised stage (smkd).")


def _pair(split: Split) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Return two rows of the first class with two images, and its name."""
    rows = split.class_rows()
    label = int(np.argmax(rows.counts >= 2))
    return rows.of(label)[:2], split.class_names[label]
