"""SMKD stage 2: supervised masked knowledge distillation (Lin et al., CVPR 2023).

Global views learn from other images of their class, and so do patches from the patches they
match best. Usually started from a stage-1 checkpoint.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from fsl.errors import ConfigError
from fsl.losses.patch_distillation import PatchPlan, matched_plan, released_plan
from fsl.losses.self_distillation import supervised_fold
from fsl.losses.soft_cross_entropy import Fold
from fsl.method import METHODS
from fsl.methods.distillation import GLOBAL_VIEWS, Distillation, Views
from fsl.methods.distillation_config import DistillationConfig, Weight
from fsl.search_space import Choice


class SMKDConfig(DistillationConfig):
    """Settings of `SMKD`."""

    name: Literal["smkd"] = "smkd"
    lambda_patch: Weight = 0.45
    """Weight of the matched-patch loss; the paper's runs use 0.45, on CIFAR-FS 0.5."""
    lambda_mim: Weight = 0.0
    """Weight of the masked-patch loss of stage 1; the paper's runs switch it off."""
    matching: Annotated[Literal["paper", "released"], Choice("paper", "released")] = "paper"
    """`paper`: eqs. (4) and (5). `released`: what the published code computes instead."""
    omega: Annotated[Literal["uniform", "attention"], Choice("uniform", "attention")] = "uniform"
    """Weight of each teacher patch: equal, or its class token's attention."""


@METHODS.register("smkd")
class SMKD(Distillation):
    """Distillation between images of a class, over class tokens and matched patches."""

    Config = SMKDConfig
    config: SMKDConfig

    def __init__(self, config: SMKDConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        if self.needs_attention and not self.backbone.has_attention:
            raise ConfigError(
                f"omega: attention needs a backbone with attention, {type(backbone).__name__} has "
                "none; use omega: uniform, or a transformer"
            )

    @property
    def needs_attention(self) -> bool:
        """Only for attention-weighted patches."""
        return self.config.omega == "attention" and self.config.lambda_patch > 0

    def class_fold(self, views: Views) -> Fold:
        """Eq. (3): global views learn from classmates, local views from their own image."""
        return supervised_fold(views.labels, GLOBAL_VIEWS, views.count)

    def patch_plans(self, views: Views) -> dict[str, tuple[float, PatchPlan]]:
        """Eqs. (4) and (5): patches learn from the classmates' patches they match."""
        if self.config.lambda_patch == 0:
            return {}
        plan_of = matched_plan if self.config.matching == "paper" else released_plan
        plan = plan_of(
            views.student_patches.detach(),
            views.teacher.patches,
            views.labels,
            len(self.patch_center),
            views.teacher.attention if self.needs_attention else None,
        )
        return {"patch": (self.config.lambda_patch, plan)}
