"""SMKD stage 1: masked self-distillation without labels (iBOT; Zhou et al., ICLR 2022)."""

from __future__ import annotations

from typing import Literal

from fsl.losses.self_distillation import view_fold
from fsl.losses.soft_cross_entropy import Fold
from fsl.method import METHODS
from fsl.methods.distillation import GLOBAL_VIEWS, Distillation, Views
from fsl.methods.distillation_config import DistillationConfig


class MaskedDistillationConfig(DistillationConfig):
    """Settings of `MaskedDistillation`."""

    name: Literal["masked_distillation"] = "masked_distillation"


@METHODS.register("masked_distillation")
class MaskedDistillation(Distillation):
    """Views of an image agree with each other, hidden patches with what the teacher sees there."""

    Config = MaskedDistillationConfig

    def class_fold(self, views: Views) -> Fold:
        """Each student view learns from the other global views of its own image (eq. 1)."""
        return view_fold(views.batch, GLOBAL_VIEWS, views.count, views.labels.device)
