"""Settings that both SMKD stages have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fsl.augment import MultiCropConfig
from fsl.heads import HeadConfig
from fsl.masking import BlockMaskConfig
from fsl.method import MethodConfig
from fsl.search_space import Choice, IntRange, Uniform

Weight = Annotated[float, Field(ge=0, le=100), Uniform(0.0, 2.0)]
Temperature = Annotated[float, Field(gt=0, le=10)]


class DistillationConfig(MethodConfig):
    """Settings that both stages have; the defaults are those of the paper."""

    crops: MultiCropConfig = MultiCropConfig()
    """The views of an image."""
    masks: BlockMaskConfig = BlockMaskConfig()
    """The patches of global views that the student does not see."""
    head: HeadConfig = HeadConfig()
    """The projection head."""
    student_temperature: Annotated[Temperature, Uniform(0.05, 0.3, log=True)] = 0.1
    """Student logits are divided by this."""
    teacher_temperature: Annotated[Temperature, Uniform(0.03, 0.1, log=True)] = 0.07
    """Teacher logits are divided by this after the warm-up; lower is more decided."""
    teacher_temperature_start: Annotated[Temperature, Uniform(0.02, 0.07, log=True)] = 0.04
    """Teacher temperature of the first epoch."""
    teacher_temperature_epochs: Annotated[int, Field(ge=0), IntRange(0, 60)] = 30
    """Epochs from the first temperature to the last, shortened to the run's length."""
    momentum: Annotated[float, Field(ge=0, le=1), Uniform(0.98, 0.9995)] = 0.996
    """Part of itself that the teacher keeps in the first step."""
    final_momentum: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The same towards the last step; half a cosine in between."""
    center_momentum: Annotated[float, Field(ge=0, lt=1), Choice(0.8, 0.9, 0.95, 0.99)] = 0.9
    """Part of itself that the centre of the teacher's logits keeps per step."""
    freeze_last_layer: Annotated[int, Field(ge=0), IntRange(0, 3)] = 1
    """Epochs at the start in which the prototypes do not learn."""
    lambda_class: Weight = 1.0
    """Weight of the class-token loss."""
    lambda_mim: Weight = 1.0
    """Weight of the masked-patch loss: patches hidden from the student, against the teacher's."""
