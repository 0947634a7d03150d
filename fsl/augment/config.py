"""Settings of the training views.

The defaults are the published SMKD/iBOT recipe: two global crops of 224 pixels and ten local
ones of 96, bicubic, flip, colour jitter, grey, blur, solarise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from fsl.augment.erasing import ErasingConfig
from fsl.augment.rand_augment import RandAugmentConfig
from fsl.config import Section
from fsl.search_space import Choice, IntRange, Uniform

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
GLOBAL_VIEWS = 2


class ColourJitter(Section):
    """Random brightness, contrast, saturation and hue, in random order."""

    probability: Annotated[Probability, Uniform(0.0, 1.0)] = 0.8
    """How often a view is jittered at all."""
    brightness: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.4
    """The pixels are multiplied by a factor from [1 - value, 1 + value]."""
    contrast: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.4
    """The distance to the view's mean grey is multiplied likewise."""
    saturation: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.8)] = 0.2
    """The distance to the pixel's own grey is multiplied likewise. No effect on grey images."""
    hue: Annotated[float, Field(ge=0, le=0.5), Uniform(0.0, 0.2)] = 0.1
    """The hue is turned by a part from [-value, value] of the colour circle, at constant luma."""


class AffineJitter(Section):
    """A random affine warp and stroke change of each view, for small images such as glyphs.

    With this section, views are sampled by one bilinear warp for all images of a batch, which
    is several times cheaper for small images but does not antialias. Points outside the image
    repeat its edge. All values 0 (and stroke 1) leave a plain bilinear crop.
    """

    rotation: Annotated[float, Field(ge=0, le=180), Uniform(0.0, 30.0)] = 0.0
    """Largest turn of a view, in degrees, either way."""
    shear: Annotated[float, Field(ge=0, le=1), Uniform(0.0, 0.4)] = 0.0
    """Largest slope along each axis: a point moves sideways by this times its height."""
    translate: Annotated[float, Field(ge=0, le=0.5), Uniform(0.0, 0.2)] = 0.0
    """Largest shift along each axis, as a part of the crop's side."""
    scale: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.4)] = 0.0
    """Each axis of the crop is stretched by a factor from [1 / (1 + value), 1 + value]."""
    stroke: Annotated[float, Field(ge=1, le=8), Uniform(1.0, 4.0, log=True)] = 1.0
    """Pixels in [0, 1] are raised to a power from [1 / value, value]: this moves soft edges, so
    strokes get thicker or thinner, and leaves black and white as they are."""


@dataclass(frozen=True)
class ViewKind:
    """What views of one kind have in common."""

    views: int
    size: int
    scale: tuple[float, float]
    blur: tuple[float, ...]  # probability per view
    solarise: tuple[float, ...]  # probability per view


class ViewSettings(Section):
    """What all views of an image share."""

    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Range of width / height of a crop before it is made square; drawn on a log scale."""
    flip: Annotated[Probability, Choice(0.0, 0.5)] = 0.5
    """How often a view is mirrored left to right. Use 0 for glyphs."""
    jitter: ColourJitter = ColourJitter()
    """Random colours; grey images take brightness and contrast only."""
    grayscale: Annotated[Probability, Uniform(0.0, 0.5)] = 0.2
    """How often a view loses its colours."""
    blur_radius: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=16)]] = (0.1, 2.0)
    """Range of the standard deviation of the Gaussian blur, in pixels of the view."""
    solarize_threshold: Annotated[int, Field(ge=0, le=255)] = 128
    """Pixels at or above this (of 255) are inverted in a solarised view."""
    affine: AffineJitter | None = None
    """Warp for small images; null crops and resizes (bicubic, antialiased)."""
    rand_augment: RandAugmentConfig | None = None
    """Some of fifteen changes of each view, before its colours; null: none. Not with `affine`."""
    erasing: ErasingConfig | None = None
    """Erase a rectangle of some views; null: none."""
    quarter_turns: Annotated[bool, Choice(False, True)] = False
    """Turn images by a random multiple of 90 degrees. The turn is drawn per class and epoch, so
    that images of one class in one batch, and all views of an image, keep one orientation."""
    mirrors: bool = False
    """Mirror half of the classes left to right, drawn per class and epoch like `quarter_turns`:
    for glyphs, where a mirrored character is another character."""

    @model_validator(mode="after")
    def _ranges_run_upwards(self) -> Self:
        for name in ("aspect", "blur_radius", *self._scales()):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the range [{low}, {high}] runs backwards; swap the two")
        return self

    @model_validator(mode="after")
    def _one_kind_of_warp(self) -> Self:
        if self.affine is not None and self.rand_augment is not None:
            raise ValueError(
                "rand_augment changes views one by one, affine warps a whole batch; use one of them"
            )
        return self

    def _scales(self) -> tuple[str, ...]:
        return ()


class MultiCropConfig(ViewSettings):
    """Two global and several local views of each image."""

    global_size: Annotated[int, Field(ge=8, le=1024)] = 224
    """Side of a global view in pixels; a multiple of the backbone's patch side."""
    local_size: Annotated[int, Field(ge=4, le=1024)] = 96
    """Side of a local view in pixels; a multiple of the backbone's patch side."""
    global_scale: Annotated[
        tuple[Fraction, Fraction], Choice((0.14, 1.0), (0.25, 1.0), (0.4, 1.0))
    ] = (0.4, 1.0)
    """Range of the part of the image's area that a global view covers."""
    local_scale: Annotated[
        tuple[Fraction, Fraction], Choice((0.05, 0.14), (0.05, 0.25), (0.05, 0.4))
    ] = (0.05, 0.4)
    """Range of the part of the image's area that a local view covers."""
    local_views: Annotated[int, Field(ge=0, le=64), IntRange(0, 12)] = 10
    """Number of local views of each image; 0 gives the two global ones only."""
    global_blur: tuple[Probability, Probability] = (1.0, 0.1)
    """How often global view 0 and global view 1 are blurred."""
    local_blur: Annotated[Probability, Uniform(0.0, 1.0)] = 0.5
    """How often a local view is blurred."""
    solarize: Annotated[Probability, Uniform(0.0, 0.5)] = 0.2
    """How often global view 1 is solarised; no other view is."""

    def _scales(self) -> tuple[str, ...]:
        return ("global_scale", "local_scale")

    def global_kind(self) -> ViewKind:
        """Return what the two global views are."""
        return ViewKind(
            GLOBAL_VIEWS, self.global_size, self.global_scale, self.global_blur, (0, self.solarize)
        )

    def local_kind(self) -> ViewKind:
        """Return what the local views are."""
        n = self.local_views
        return ViewKind(n, self.local_size, self.local_scale, (self.local_blur,) * n, (0.0,) * n)


class SingleViewConfig(ViewSettings):
    """One random view of each image, for supervised training. Its side is `images.size`."""

    scale: Annotated[tuple[Fraction, Fraction], Choice((0.08, 1.0), (0.2, 1.0), (0.5, 1.0))] = (
        0.2,
        1.0,
    )
    """Range of the part of the image's area that the view covers."""
    blur: Annotated[Probability, Uniform(0.0, 1.0)] = 0.0
    """How often the view is blurred."""
    solarize: Annotated[Probability, Uniform(0.0, 0.5)] = 0.0
    """How often the view is solarised."""

    def _scales(self) -> tuple[str, ...]:
        return ("scale",)

    def kind(self, size: int) -> ViewKind:
        """Return what the view is, for a side of `size` pixels."""
        return ViewKind(1, size, self.scale, (self.blur,), (self.solarize,))
