"""Settings of the optimizer: which, its schedules, and what happens to gradients before a step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fsl.config import Section
from fsl.search_space import Uniform

Moment = Annotated[float, Field(ge=0, lt=1)]


class ClipConfig(Section):
    """Limit of the gradients, after unscaling."""

    kind: Literal["per_parameter", "global_norm", "value_then_norm", "normalise", "none"] = (
        "per_parameter"
    )
    """`per_parameter` limits the norm of each tensor, `global_norm` that of all together.
    `value_then_norm` limits each element and then each tensor's norm (AWGIM). `normalise` divides
    all gradients by their common norm (CrossTransformers)."""
    value: Annotated[float, Field(gt=0), Uniform(0.05, 10.0, log=True)] = 3.0
    """Largest norm, or element; `normalise` and `none` do not use it."""


class StaircaseConfig(Section):
    """A rate that falls by a factor every so many steps, instead of the cosine."""

    every: Annotated[int, Field(ge=1)]
    """Optimizer steps between two drops."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.2
    """What the rate is multiplied by at a drop."""


OWN_SETTINGS = {
    "betas": ("adamw",),
    "epsilon": ("adamw",),
    "epsilon_before_correction": ("adamw",),
    "decay_times_lr": ("adamw",),
    "momentum": ("sgd", "lars"),
    "nesterov": ("sgd", "lars"),
}
"""Settings that only some optimizers have."""
MOST_PER_STEP = 0.01
"""With `decay_times_lr: false`: largest share of a weight that a step may take away."""


class OptimConfig(Section):
    """The optimizer with schedules per iteration of rate and decay."""

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """`sgd` has momentum and adds decay * weight to the gradient. `lars` also scales the step of
    each decayed tensor to .001 of the tensor's norm, for very large batches (You et al., 2017)."""
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the split, or epochs of tasks."""
    lr: Annotated[float, Field(gt=0, le=10), Uniform(1e-5, 1e-2, log=True)] = 5e-4
    """Learning rate after the warm-up; not scaled with the batch size."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Rate that the cosine falls to."""
    staircase: StaircaseConfig | None = None
    """Drops instead of the cosine; with it `min_lr` and `warmup_epochs` must be 0."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 10
    """Epochs of linear rise from 0; at most `epochs`."""
    weight_decay: Annotated[float, Field(ge=0, le=1), Uniform(1e-4, 0.5, log=True)] = 0.04
    """Decay at the start; only of tensors with more than one axis that are no bias."""
    final_weight_decay: Annotated[float, Field(ge=0, le=1)] | None = 0.4
    """Decay at the end; null keeps `weight_decay`."""
    decay_times_lr: bool = True
    """Each step of AdamW multiplies weights by 1 - lr * decay; false: by 1 - decay, whatever the
    rate (AWGIM), and both decays are then at most .01."""
    decay_all: bool = False
    """Decay biases and one-dimensional tensors as well (AWGIM)."""
    l2: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of a penalty l2 * sum of squares of the decayed tensors, within the gradient and so
    before `clip` (CrossTransformers); not the same as decay."""
    momentum: Moment = 0.9
    """Share of the last step that is kept (sgd, lars)."""
    nesterov: bool = False
    """Nesterov's form of momentum (sgd, lars)."""
    betas: tuple[Moment, Moment] = (0.9, 0.999)
    """Moment coefficients of AdamW."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the root of AdamW's second moment."""
    epsilon_before_correction: bool = False
    """Add it to the moment that is not yet corrected for its start at 0, as TensorFlow does."""
    clip: ClipConfig = ClipConfig()
    """Limit of the gradients."""
    skip_nonfinite: bool = False
    """Leave out a step whose gradients are not finite, and count it (`skipped` in the metrics), up
    to 10 in a row; false: stop at once, but in fp16 leave it to the scaler of the gradients."""

    @model_validator(mode="after")
    def _settings_of_this_optimizer(self) -> Self:
        for name, owners in OWN_SETTINGS.items():
            changed = getattr(self, name) != OptimConfig.model_fields[name].default
            if changed and self.optimizer not in owners:
                raise ValueError(
                    f"{name}: is of {' and '.join(owners)}, and optimizer is {self.optimizer}; "
                    "remove it"
                )
        if self.optimizer == "lars" and not self.weight_decay:
            raise ValueError("weight_decay: lars only scales steps of what decays; set it above 0")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: there is no momentum; set momentum above 0, e.g. 0.9")
        return self

    @model_validator(mode="after")
    def _rates_fall(self) -> Self:
        if self.staircase is not None and (self.warmup_epochs or self.min_lr):
            raise ValueError(
                "staircase: a rate that falls in steps has no warm-up and no lowest rate; set "
                "warmup_epochs: 0 and min_lr: 0"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}; lower min_lr")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} exceeds epochs {self.epochs}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _decays_are_shares(self) -> Self:
        if self.decay_times_lr:
            return self
        remedies = {"weight_decay": "1e-6", "final_weight_decay": "null"}
        for name, remedy in remedies.items():
            share = getattr(self, name)
            if share is not None and share > MOST_PER_STEP:
                raise ValueError(
                    f"{name}: {share:g} is, with decay_times_lr: false, the share of every weight "
                    f"lost per step; {MOST_PER_STEP:g} is the most; set {name}: {remedy}"
                )
        if self.weight_decay and self.warmup_epochs:
            raise ValueError(
                "decay_times_lr: false needs a rate above 0 from the start; set warmup_epochs: 0"
            )
        return self
