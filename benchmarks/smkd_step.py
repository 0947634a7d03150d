"""One SMKD training step against a plain implementation: time and peak memory.

    python benchmarks/smkd_step.py                    # both stages, ViT-Ti/16, K = 8192, B = 32
    python benchmarks/smkd_step.py --vit micro        # a small backbone: mostly heads and losses
    python benchmarks/smkd_step.py --batch 8 --runs 1 # a quick look

A step is forward, loss, backward, clipping, AdamW and EMA on random views (2 x 224, 10 x 96).
The plain side is what one would write from the paper: the head on every token of every view,
all logits kept, a Python loop over same-class pairs, over parameters for clipping and for the
EMA. Both use the same backbone. Every measurement is a fresh process, the two sides in turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.backbones import TokenBackbone, build_backbone
from fsl.backbones.vit import ViTConfig
from fsl.heads import HeadConfig
from fsl.images import ImageSpec
from fsl.masking import BlockMaskConfig, block_masks
from fsl.methods.distillation import Distillation
from fsl.methods.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.optimization import clip_per_parameter_
from fsl.types import MultiViewBatch, Progress

TAU_STUDENT, TAU_TEACHER, LAMBDA_PATCH = 0.1, 0.04, 0.45


def batch_of(arguments: argparse.Namespace) -> MultiViewBatch:
    """Random views; two images of every class, as in a class-aware stage-2 batch."""
    size, local, count = arguments.size, arguments.local_size, arguments.batch
    side = size // 16
    return MultiViewBatch(
        global_views=torch.randn(2 * count, 3, size, size),
        local_views=torch.randn(arguments.local_views * count, 3, local, local),
        masks=block_masks(range(2 * count), side, side, BlockMaskConfig()),
        labels=torch.arange(count) // 2,
        size=count,
    )


class PlainHead(nn.Module):
    """MLP, normalisation, weight-normalised linear layer; returns all logits."""

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 2048),
            nn.GELU(),
            nn.Linear(2048, 2048),
            nn.GELU(),
            nn.Linear(2048, 256),
        )
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(256, prototypes, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.normalize(self.mlp(x), dim=-1))
        return logits


class Plain:
    """The plain implementation of both stages."""

    def __init__(self, stage: int, backbone: TokenBackbone, prototypes: int) -> None:
        self.stage = stage
        self.student = nn.ModuleList([backbone, PlainHead(backbone.features, prototypes)])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.center = torch.zeros(prototypes)
        self.patch_center = torch.zeros(prototypes)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=5e-4)

    def outputs(
        self, networks: nn.ModuleList, images: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits, logits of every patch, patch features."""
        backbone, head = networks
        assert isinstance(backbone, TokenBackbone)
        tokens = backbone.tokens(images, masks)
        logits = head(torch.cat([tokens.cls[:, None], tokens.patches], 1))
        return logits[:, 0], logits[:, 1:], tokens.patches

    def step(self, batch: MultiViewBatch) -> float:
        student_cls, student_patch, student_features = self.outputs(
            self.student, batch.global_views, batch.masks
        )
        local_cls, _, _ = self.outputs(self.student, batch.local_views)
        with torch.no_grad():
            teacher_cls, teacher_patch, teacher_features = self.outputs(
                self.teacher, batch.global_views
            )
            cls_targets = F.softmax((teacher_cls - self.center) / TAU_TEACHER, -1).chunk(2)
            targets = F.softmax((teacher_patch - self.patch_center) / TAU_TEACHER, -1)
        cls = [*student_cls.chunk(2), *local_cls.chunk(len(local_cls) // batch.size)]
        if self.stage == 1:
            loss = self.view_loss(cls, cls_targets) + self.masked_loss(
                student_patch, targets, batch.masks
            )
        else:
            loss = self.class_loss(cls, cls_targets, batch.labels)
            loss = loss + LAMBDA_PATCH * self.pair_loss(
                student_patch.chunk(2), targets.chunk(2),
                student_features.detach().chunk(2), teacher_features.chunk(2), batch.labels,
            )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], 3.0)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                slow.mul_(0.996).add_(fast, alpha=0.004)
            self.center = 0.9 * self.center + 0.1 * teacher_cls.mean(0)
            self.patch_center = 0.9 * self.patch_center + 0.1 * teacher_patch.mean((0, 1))
        return loss.item()

    def view_loss(self, student: list[Tensor], targets: tuple[Tensor, ...]) -> Tensor:
        losses = [
            -(target * F.log_softmax(logits / TAU_STUDENT, -1)).sum(-1).mean()
            for a, target in enumerate(targets)
            for v, logits in enumerate(student)
            if a != v
        ]
        return torch.stack(losses).mean()

    def masked_loss(self, student: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
        masked = masks.flatten(1).float()
        entropy = -(targets * F.log_softmax(student / TAU_STUDENT, -1)).sum(-1)
        return ((entropy * masked).sum(1) / masked.sum(1).clamp_min(1)).mean()

    def class_loss(
        self, student: list[Tensor], targets: tuple[Tensor, ...], labels: Tensor
    ) -> Tensor:
        total, terms = torch.zeros(()), 0
        for target in targets:
            for v, logits in enumerate(student):
                log_probabilities = F.log_softmax(logits / TAU_STUDENT, -1)
                for i in range(len(labels)):
                    for j in range(len(labels)):
                        wanted = labels[i] == labels[j] and i != j if v < 2 else i == j
                        if wanted:
                            total = total - (target[i] * log_probabilities[j]).sum()
                            terms += 1
        return total / terms

    def pair_loss(
        self,
        student: tuple[Tensor, ...],
        targets: tuple[Tensor, ...],
        student_features: tuple[Tensor, ...],
        teacher_features: tuple[Tensor, ...],
        labels: Tensor,
    ) -> Tensor:
        per_image = []
        for s, t in ((0, 1), (1, 0)):
            for i in range(len(labels)):
                mates = [j for j in range(len(labels)) if j != i and labels[i] == labels[j]]
                losses = []
                for j in mates:
                    similarity = F.cosine_similarity(
                        student_features[s][i][:, None], teacher_features[t][j][None], dim=-1
                    )
                    matched = student[s][i][similarity.argmax(0)]
                    log_probabilities = F.log_softmax(matched / TAU_STUDENT, -1)
                    losses.append(-(targets[t][j] * log_probabilities).sum(-1).mean())
                if losses:
                    per_image.append(torch.stack(losses).mean())
        return torch.stack(per_image).mean()


def ours(stage: int, backbone: TokenBackbone, prototypes: int) -> Callable[[MultiViewBatch], float]:
    """This project's step, as `pipelines.trainer` takes it on one process."""
    head = HeadConfig(prototypes=prototypes)
    shared = {"head": head, "teacher_temperature_epochs": 0, "teacher_temperature": TAU_TEACHER}
    method: Distillation = (
        MaskedDistillation(MaskedDistillationConfig(**shared), backbone)  # type: ignore[arg-type]
        if stage == 1
        else SMKD(SMKDConfig(lambda_patch=LAMBDA_PATCH, **shared), backbone)  # type: ignore[arg-type]
    )
    learnt = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=5e-4)
    progress = Progress(step=200, total_steps=1000, steps_per_epoch=10)

    def step(batch: MultiViewBatch) -> float:
        method.before_step(progress)
        loss = method.loss(batch).loss
        optimizer.zero_grad()
        loss.backward()
        clip_per_parameter_(learnt, 3.0)
        optimizer.step()
        method.after_step(progress)
        return float(loss.detach())

    return step


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run a few steps in this process; seconds of the best, and peak resident memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = batch_of(arguments)
    vit = ViTConfig(size=arguments.vit, patch=16)
    backbone = build_backbone(vit, ImageSpec(size=arguments.size))
    assert isinstance(backbone, TokenBackbone)
    make = Plain(arguments.stage, backbone, arguments.prototypes).step
    step = (
        make if arguments.side == "plain" else ours(arguments.stage, backbone, arguments.prototypes)
    )
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(arguments.steps):
        before = time.process_time()
        loss = step(batch)
        seconds.append(time.process_time() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(seconds), "peak": peak / 2**20, "idle": idle / 2**20, "loss": loss}


def compare(arguments: argparse.Namespace, stage: int) -> str:
    """Return a table row: the ratio ours / plain of each interleaved pair, median and range."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for _ in range(arguments.runs):
        for side, results in found.items():
            command = [sys.executable, str(Path(__file__)), "--side", side, "--stage", str(stage)]
            for name in (
                "vit",
                "batch",
                "prototypes",
                "size",
                "local_size",
                "local_views",
                "steps",
            ):
                command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results.append(json.loads(output))
    cells = []
    for key in ("seconds", "peak"):
        pairs = zip(found["ours"], found["plain"], strict=True)
        ratios = [mine[key] / other[key] for mine, other in pairs]
        middle = {side: statistics.median(r[key] for r in found[side]) for side in found}
        cells.append(
            f"{middle['ours']:.2f} / {middle['plain']:.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )
    return f"| {stage} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vit", choices=("micro", "nano", "tiny", "small"), default="tiny")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prototypes", type=int, default=8192)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--local-views", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="interleaved pairs of processes")
    parser.add_argument("--side", choices=("ours", "plain"))
    parser.add_argument("--stage", type=int, choices=(1, 2))
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    print(
        f"ViT {arguments.vit}/16, B = {arguments.batch}, K = {arguments.prototypes}, "
        f"2 x {arguments.size} + {arguments.local_views} x {arguments.local_size} px, float32, "
        f"one thread, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}; {arguments.runs} interleaved pairs\n"
    )
    print(
        "| stage | CPU s ours / plain | ratio | peak GiB ours / plain | ratio |\n"
        + "|---" * 5
        + "|"
    )
    for stage in (arguments.stage,) if arguments.stage else (1, 2):
        print(compare(arguments, stage), flush=True)


if __name__ == "__main__":
    main()
