"""What both SMKD stages share: student, momentum teacher, heads, centres, schedules, features.

A stage adds its losses. Both stages have the same parameters and buffers under the same names,
so the second starts from a checkpoint of the first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.additions import AdditionConfig
from fsl.augment import MultiCropBatcher
from fsl.backbones import TokenBackbone, Tokens
from fsl.batchers import Batcher
from fsl.collapse import collapse_signals, diagnose, update_center
from fsl.distributed import all_reduce_mean, stands_in
from fsl.errors import ConfigError
from fsl.heads import ProjectionHead
from fsl.images import ImageSpec
from fsl.losses.patch_distillation import PatchPlan, masked_plan, patch_weights
from fsl.losses.self_distillation import class_loss
from fsl.losses.soft_cross_entropy import (
    Fold,
    SoftTargets,
    folded_cross_entropy,
    teacher_probabilities,
)
from fsl.method import Method
from fsl.methods.distillation_config import DistillationConfig
from fsl.momentum import ema_update_, make_teacher, matching_parameters
from fsl.schedules import CosineSchedule, TeacherTemperature
from fsl.types import MultiViewBatch, Progress, StepOutput

GLOBAL_VIEWS = 2


@dataclass(frozen=True)
class Views:
    """What the networks made of one batch. V views, the first G = 2 global, N patches."""

    batch: int
    labels: Tensor  # (B,)
    masks: Tensor  # (G*B, h, w) bool
    student_cls: Tensor  # (V*B, D)
    student_patches: Tensor  # (G*B, N, D)
    teacher: Tokens  # of G*B images
    prototypes: Tensor  # (K, P) the student's, of class tokens
    patch_prototypes: Tensor  # (K', P)

    @property
    def count(self) -> int:
        """V, never inferred from chunk()."""
        return len(self.student_cls) // self.batch


class Distillation(Method[MultiViewBatch]):
    """Student and momentum teacher over several views of each image."""

    Config = DistillationConfig
    batch_type = MultiViewBatch
    uses_all_parameters: ClassVar[bool] = True  # DistributedDataParallel need not search
    takes_rows = True
    config: DistillationConfig
    backbone: TokenBackbone
    center: Tensor
    patch_center: Tensor

    def __init__(self, config: DistillationConfig, backbone: nn.Module) -> None:
        if not isinstance(backbone, TokenBackbone) or not backbone.has_patches:
            raise ConfigError(
                f"method {config.name!r} needs a backbone with patch tokens, "
                f"{type(backbone).__name__} has none; use vit, conv_vit, or conv4 with pool: mean"
            )
        if not backbone.hides_patches:
            raise ConfigError(
                f"method {config.name!r} hides patches, which {type(backbone).__name__} cannot; "
                "use vit, conv_vit, or conv4 with pool: mean"
            )
        super().__init__(config, backbone)
        self.head = ProjectionHead(backbone.features, config.head)
        self.teacher_backbone = make_teacher(backbone)
        self.teacher_head = make_teacher(self.head)
        patch_count = config.head.patch_prototypes or config.head.prototypes
        self.register_buffer("center", torch.zeros(config.head.prototypes))
        self.register_buffer("patch_center", torch.zeros(patch_count))
        schedule = TeacherTemperature(
            config.teacher_temperature_start,
            config.teacher_temperature,
            config.teacher_temperature_epochs,
        )
        self._schedules = schedule, replace(schedule, delay=config.masks.start_epoch)
        self.temperature = self.patch_temperature = config.teacher_temperature
        self.momentum = config.momentum
        self._seen = 0  # images since the last step
        self._center_sum: Tensor | None = None  # (K + K',) raw teacher logits, summed over them

    @classmethod
    def batcher(
        cls,
        config: DistillationConfig,
        images: ImageSpec,
        grid_of: Callable[[int], tuple[int, int]],
    ) -> Batcher:
        """Return the multi-crop batcher with block masks."""
        return MultiCropBatcher(config.crops, config.masks, images, grid_of)

    @abstractmethod
    def class_fold(self, views: Views) -> Fold:
        """Return which student view learns from which teacher view."""

    def patch_plans(self, views: Views) -> dict[str, tuple[float, PatchPlan]]:
        """Return further patch losses: name -> (weight, which patches)."""
        return {}

    @property
    def needs_attention(self) -> bool:
        """Whether the losses need the teacher's class-token attention."""
        return False

    def loss(self, batch: MultiViewBatch) -> StepOutput:
        """Return the weighted losses of one batch, and the signs of a collapse."""
        views = self._views(batch)
        with torch.no_grad():
            prototypes, patch_prototypes = _prototypes(self.teacher_head)
            cls = _project(self.teacher_head, views.teacher.cls)  # (G*B, P)
            targets = teacher_probabilities(cls, prototypes, self.center, self.temperature)
            center = _mean_logit(cls, prototypes)
        loss = self._class_loss(views, targets)
        total = self.config.lambda_class * loss
        metrics = {"loss_cls": loss.detach()}
        patch_losses, patch_center = self._patch_losses(views, patch_prototypes)
        for name, (weight, value) in patch_losses.items():
            total = total + weight * value
            metrics[f"loss_{name}"] = value.detach()
        if not patch_losses:  # separate patch prototypes must stay in the graph
            total = total + 0.0 * views.patch_prototypes.sum()
        if self.training:
            self._note_center(torch.cat([center, patch_center]), batch.size)
        metrics |= collapse_signals(targets, views.teacher.cls, self.center)
        return StepOutput(total, metrics)

    def _class_loss(self, views: Views, targets: Tensor) -> Tensor:
        """Return the class-token loss (): of the features, or mean of all streams of rows."""
        size, width = views.batch, views.student_cls.shape[-1]
        # BatchFormer sees one view at a time: no image shall attend to itself.
        mixed = [self.mix(view) for view in torch.split(views.student_cls, size)]
        streams = torch.stack([view.view(-1, size, width) for view in mixed], 1)  # (r, V, B, D)
        known = views.prototypes, targets, self.class_fold(views), self.config.student_temperature
        losses = [class_loss(_project(self.head, rows), *known) for rows in streams.flatten(1, 2)]
        return torch.stack(losses).mean()

    def attach(self, additions: Mapping[str, AdditionConfig], images: ImageSpec) -> None:
        """Let `additions` ride on the student; see `Method.attach`."""
        super().attach(additions, images)
        for name, addition in self.riding():
            if addition.adds_rows_inside:
                raise ConfigError(
                    f"additions.{name}: method {self.config.name!r} compares each patch with the "
                    "teacher's, so the network must not double its rows; remove after_blocks"
                )

    def before_step(self, progress: Progress) -> None:
        """Set temperatures and momentum of this step."""
        self.temperature, self.patch_temperature = (
            schedule(progress.epoch, progress.epochs) for schedule in self._schedules
        )
        config = self.config
        momentum = CosineSchedule(config.momentum, config.final_momentum, progress.total_steps)
        self.momentum = momentum(progress.step)
        self._seen, self._center_sum = 0, None

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student, and the centres towards this step's logits."""
        del progress
        ema_update_(*matching_parameters(self.teacher_backbone, self.backbone), self.momentum)
        ema_update_(*matching_parameters(self.teacher_head, self.head), self.momentum)
        if self._center_sum is not None:
            # The count travels along: ranks may have seen unequal numbers of images.
            sums = all_reduce_mean(F.pad(self._center_sum, (0, 1), value=float(self._seen)))
            mean = sums[:-1] / sums[-1]
            class_mean, patch_mean = mean[: len(self.center)], mean[len(self.center) :]
            kept = self.config.center_momentum
            self.center.copy_(update_center(self.center, class_mean, kept))
            self.patch_center.copy_(update_center(self.patch_center, patch_mean, kept))
            self._seen, self._center_sum = 0, None

    def frozen_parameters(self, progress: Progress) -> Sequence[nn.Parameter]:
        """Return the prototypes during the first epochs."""
        return self.head.last_layers() if progress.epoch < self.config.freeze_last_layer else ()

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence about a collapse, or None."""
        return diagnose(metrics, self.config.head.prototypes)

    def embed(self, images: Tensor) -> Tensor:
        """Return the teacher's [class token; attention-weighted mean patch], each of length 1.

        (..., C, H, W) -> (..., 2D). Without attention in the backbone the mean is uniform.
        """
        tokens = self.teacher_backbone.tokens(images.flatten(0, -4), attention=True)
        count, patches = tokens.patches.shape[:2]
        weights = patch_weights(tokens.attention, count, patches, images.device)  # (n, N)
        pooled = (weights.unsqueeze(1) @ tokens.patches.float()).squeeze(1)
        features = torch.cat(
            [F.normalize(tokens.cls.float(), dim=-1), F.normalize(pooled, dim=-1)], -1
        )
        return features.reshape(*images.shape[:-3], -1)

    def _views(self, batch: MultiViewBatch) -> Views:
        student = self.backbone.tokens(batch.global_views, batch.masks)
        student_cls = student.cls
        if len(batch.local_views):
            local = self.backbone.tokens(batch.local_views)
            student_cls = torch.cat([student_cls, local.cls])
        with torch.no_grad():
            teacher = self.teacher_backbone.tokens(
                batch.global_views, attention=self.needs_attention
            )
        prototypes, patch_prototypes = _prototypes(self.head)
        return Views(
            batch=batch.size,
            labels=batch.labels,
            masks=batch.masks,
            student_cls=student_cls,
            student_patches=student.patches,
            teacher=teacher,
            prototypes=prototypes,
            patch_prototypes=patch_prototypes,
        )

    def _patch_losses(
        self, views: Views, teacher_prototypes: Tensor
    ) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
        """Return name -> (weight, loss), and the mean of the teacher's patch logits (K',)."""
        plans = self.patch_plans(views)
        if self.config.lambda_mim > 0:
            plan = masked_plan(views.masks, GLOBAL_VIEWS, len(teacher_prototypes))
            plans["mim"] = (self.config.lambda_mim, plan)
        if not plans:
            return {}, torch.zeros_like(self.patch_center)
        with torch.no_grad():  # every patch counts for the centre, so all are projected
            teacher = _project(self.teacher_head, views.teacher.patches)  # (G*B*N, P)
            center = _mean_logit(teacher, teacher_prototypes)
        standardiser = self.head.standardiser(views.student_patches)
        tokens = views.student_patches.flatten(0, 1)
        known = teacher_prototypes, self.patch_center, self.patch_temperature
        losses = {}
        for name, (weight, plan) in plans.items():
            targets = SoftTargets(teacher[plan.teacher_rows], *known)
            losses[name] = (
                weight,
                folded_cross_entropy(
                    self.head.project(tokens[plan.student_rows], standardiser),
                    views.patch_prototypes,
                    targets,
                    plan.fold,
                    self.config.student_temperature,
                ),
            )
        return losses, center

    def _note_center(self, mean: Tensor, images: int) -> None:
        """Remember raw teacher logits until `after_step`: a step may have several batches."""
        images = 0 if stands_in() else images
        before = 0.0 if self._center_sum is None else self._center_sum
        self._center_sum = before + mean * images
        self._seen += images


def _prototypes(head: ProjectionHead) -> tuple[Tensor, Tensor]:
    """Return W of class and of patch tokens, computed once where they are the same."""
    prototypes = head.class_prototypes()
    return prototypes, prototypes if head.patch_layer is None else head.patch_prototypes()


def _mean_logit(rows: Tensor, prototypes: Tensor) -> Tensor:
    """Return the mean over rows (n, P) of their logits (K,), without the logits; float32."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float().mean(0) @ prototypes.float().mT


def _project(head: ProjectionHead, tokens: Tensor) -> Tensor:
    """Project all tokens (..., D) -> (rows, P)."""
    return head.project(tokens.flatten(0, -2), head.standardiser(tokens))
