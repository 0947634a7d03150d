"""A finished run on disk without having trained: shards, two untrained models, their records."""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_shards.location import Location
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from pipelines.checkpoint import CheckpointInfo, write_checkpoint, write_pointers
from pipelines.model import fresh_method
from pipelines.provenance import write_provenance
from pipelines.stage import STAGES, Stage, StageResult
from pipelines.train_config import TrainConfig

SMALL = {
    "images": {"mode": "grey", "normalisation": "half", "size": 28, "resize": 28},
    "backbone": {"name": "vit", "size": "micro", "depth": 1},
}
HEAD = {"prototypes": 16, "hidden": 16, "bottleneck": 8}
CROPS = {"global_size": 28, "local_size": 16, "local_views": 1}


class FinishedRun:
    """Stages below `root`, as the runner would have left them."""

    def __init__(self, root: Path) -> None:
        self.root = Location.parse(root)
        self.results: dict[str, StageResult] = {}
        self.directories: dict[str, str] = {}

    def shards(self) -> StageResult:
        """Write 3 base, 1 validation and 7 novel classes of characters."""
        place = self.root / "shards-aaaa"
        config = StrokesConfig(
            images=12, characters=7, base_alphabets=1, val_alphabets=1, novel_alphabets=1, size=28
        )
        write_shards(config, place, shard_mb=1.0, max_samples=500, seed=0, progress=False)
        settings = {"kind": "write_shards", "source": config.model_dump(mode="json")}
        return self._record("shards", "write_shards", place, settings, [])

    def model(self, label: str, method: str, needs: list[str]) -> StageResult:
        """Write a checkpoint of a fresh method with a head and crops; see `untrained`."""
        own = {"name": method, "head": HEAD, "crops": CROPS}
        return self.untrained(label, {"method": own}, needs)

    def untrained(
        self, label: str, settings: Mapping[str, object], needs: list[str]
    ) -> StageResult:
        """Write a checkpoint of a fresh method, with a metrics file as training leaves it."""
        config = build(TrainConfig, {"kind": "train", **SMALL, **settings})
        place = self.root / f"{label}-bbbb"
        assert place.local is not None
        directory = place.local / "checkpoints" / "step-00000010"
        directory.mkdir(parents=True)
        torch.manual_seed(len(label))
        method = fresh_method(config)
        info = CheckpointInfo(10, 1, 1, "digest", config.model_dump(mode="json"))
        info.metrics.update(val_accuracy=0.5, loss=1.0)
        adam = torch.optim.AdamW(method.parameters())
        write_checkpoint(directory, info, method, adam, torch.amp.GradScaler("cpu", enabled=False))
        write_pointers(place)
        (place / "metrics.jsonl").write_text(metric_lines())
        return self._record(label, "train", place, config.model_dump(mode="json"), needs)

    def run(
        self, label: str, kind: str, settings: Mapping[str, object], needs: list[str]
    ) -> StageResult:
        """Really run a stage and record it."""
        stage_class = STAGES.get(kind)
        stage: Stage[Any] = stage_class(build(stage_class.Config, {"kind": kind, **settings}))
        place = self.root / f"{label}-cccc"
        place.make_dir()
        inputs = {name: self.results[name] for name in needs}
        metrics = stage.run(inputs, place)
        dumped = stage.config.model_dump(mode="json")
        result = self._record(label, kind, place, dumped, needs, metrics=dict(metrics))
        self.results[label] = replace(result, path=stage.place(place))
        return self.results[label]

    def _record(
        self,
        label: str,
        kind: str,
        place: Location,
        config: Mapping[str, object],
        needs: list[str],
        *,
        metrics: dict[str, float] | None = None,
    ) -> StageResult:
        inputs = [
            {"label": n, "kind": r.kind, "key": r.key, "dir": self.directories[n]}
            for n, r in ((name, self.results[name]) for name in needs)
        ]
        identity = {"label": label, "kind": kind, "key": f"{label:0<64}", "inputs": inputs}
        (place / "config.json").write_text(json.dumps({**identity, "config": config}))
        done = {**identity, "metrics": metrics or {}, "seconds": 754.2}
        (place / "result.json").write_text(json.dumps(done))
        write_provenance(place, {"pipeline": 0, "stage": 0})
        self.directories[label] = place.name
        self.results[label] = StageResult(label, kind, f"{label:0<64}", place, metrics or {})
        return self.results[label]


def metric_lines() -> str:
    """Numbers such as a train stage logs them."""
    lines = []
    for step in range(10, 1010, 10):
        part = step / 1000
        numbers = {
            "loss": 4.2 * math.exp(-part) + 0.1 * math.sin(step),
            "loss_cls": 2.7 * math.exp(-1.4 * part),
            "loss_mim": 1.5 * math.exp(-0.4 * part),
            "lr": 5e-4 * math.sin(math.pi * part),
            "teacher_entropy": 2.7 - part,
            "teacher_kl": 0.4 * part,
            "center_norm": 0.3 + part,
            "effective_rank": 4 + 12 * part,
            "images_per_second": 310 + 9 * math.sin(step),
            "epoch": part * 10,
        }
        lines.append({"kind": "train", "step": step, "time": 1.0 * step, **numbers})
        if step % 200 == 0:
            scores = {"accuracy": 0.3 + 0.4 * part, "half_width": 0.01, "tasks": 600}
            lines.append({"kind": "validation", "step": step, "time": 1.0 * step, **scores})
    return "".join(json.dumps(line) + "\n" for line in lines)


def whole_run(root: Path) -> FinishedRun:
    """Two-stage SMKD, evaluated and reported."""
    run = FinishedRun(root)
    run.shards()
    run.model("pretrain", "masked_distillation", ["shards"])
    run.model("distill", "smkd", ["shards", "pretrain"])
    settings = {"tasks": 60, "baselines": ["pixels"], "shots": [1, 5], "queries": 5}
    run.run("evaluate", "evaluate", settings, ["shards", "pretrain", "distill"])
    run.run("report", "report", {"title": "SMKD on <strokes>"}, ["evaluate"])
    return run


if __name__ == "__main__":
    print(whole_run(Path(tempfile.mkdtemp())).root)
