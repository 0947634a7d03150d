"""Generated alphabets of handwritten-looking characters: the data that is always there.

An alphabet is a set of seven strokes; a character combines one to four of them; an image is the
character as another hand would draw it. Classes are unlimited, nothing is downloaded, and every
image is a function of the seed and its place, whatever the number of alphabets or characters.

Letters in shapes: n images, s strokes, p points, z side in pixels. Coordinates run over [-1, 1].
"""

from __future__ import annotations

import io
import threading
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from data_shards.sources import SOURCES, Sample, Source, SourceConfig
from data_shards.splits import HELD_OUT, SPLITS
from data_shards.styles import styled
from fsl.config import digest

Floats = NDArray[np.float64]
Style = Literal["pen", "ink", "chalk", "outline", "shade"]

PRIMITIVES = 7
CONTROLS = 5
POINTS = 48
"""Points per stroke; 25 leave dots on long thin strokes."""
STROKE_COUNTS = (0.15, 0.40, 0.30, 0.15)
ATTACHED = 0.65
CONTROL_NOISE, OFFSET_NOISE = 0.06, 0.07
ROTATION, SHEAR = 0.18, 0.2
SIZES, SHIFT, RADII = (0.4, 0.85), 0.22, (0.05, 0.10)
ALIKE = 0.3
"""Mean distance of control points below which two single strokes are the same character."""
FURTHER = "further"
VERSION = 1
"""Raise when equal settings begin to give other images."""


class StrokesConfig(SourceConfig):
    """Settings of `Strokes`."""

    name: Literal["strokes"] = "strokes"
    size: Annotated[int, Field(ge=8, le=256)] = 28
    """Side of the images in pixels."""
    images: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Images per character."""
    held_out_images: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Further images per base character, which make the split `held_out`."""
    characters: Annotated[int, Field(ge=1, le=1_000)] = 25
    """Characters (classes) per alphabet."""
    base_alphabets: Annotated[int, Field(ge=0, le=10_000)] = 8
    """Alphabets of the base classes."""
    val_alphabets: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Alphabets of the validation classes."""
    novel_alphabets: Annotated[int, Field(ge=0, le=10_000)] = 3
    """Alphabets of the novel classes."""
    styles: Annotated[tuple[Style, ...], Field(min_length=1)] = ("pen",)
    """How characters are drawn: each has so many images in every style. Several styles become the
    field `domain`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Another seed, other alphabets."""

    @model_validator(mode="after")
    def _something_to_draw(self) -> StrokesConfig:
        if len(set(self.styles)) < len(self.styles):
            raise ValueError(f"styles: {list(self.styles)}: name each once")
        if not (self.base_alphabets or self.val_alphabets or self.novel_alphabets):
            raise ValueError("base_alphabets, val_alphabets, novel_alphabets: all are 0")
        return self


@SOURCES.register("strokes")
class Strokes(Source[StrokesConfig]):
    """Images are drawn a whole class at a time, when the first of them is read."""

    Config = StrokesConfig

    def __init__(self, config: StrokesConfig) -> None:
        super().__init__(config)
        self._alphabets: dict[tuple[int, int, int], list[Floats]] = {}
        self._drawn: dict[tuple[str, str, str], list[bytes]] = {}
        self._lock = threading.Lock()

    def samples(self) -> list[Sample]:
        """Return all samples, by split, alphabet, character and image."""
        config, found = self.config, []
        parts = [(split, split, config.images) for split in SPLITS]
        for split, owner, count in [*parts, (HELD_OUT, "base", config.held_out_images)]:
            for name in self._classes(owner):
                for style in config.styles:
                    found += [self._sample(split, name, style, image) for image in range(count)]
        return found

    def _classes(self, split: str) -> list[str]:
        alphabets = range(getattr(self.config, f"{split}_alphabets"))
        return [
            f"{split}{alphabet:02d}/character{character:02d}"
            for alphabet in alphabets
            for character in range(self.config.characters)
        ]

    def _sample(self, split: str, name: str, style: str, image: int) -> Sample:
        mark = FURTHER if split == HELD_OUT else ""
        extra = {"alphabet": name.partition("/")[0]}
        if len(self.config.styles) > 1:
            extra["domain"], mark = style, f"{style}/{mark}"
        return Sample(split, name, f"{name}/{mark}{image:02d}", extra)

    def read(self, sample: Sample) -> bytes:
        """Return the grey PNG; white on black, unless the style is another."""
        style = sample.extra.get("domain", self.config.styles[0])
        key = sample.split, sample.class_name, style
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = self._draw(sample, style)
        return self._drawn[key][int(sample.origin.rpartition("/")[2].removeprefix(FURTHER))]

    def fingerprint(self) -> str:
        """Return the sha256 of the version of the drawing."""
        return digest(["strokes", VERSION])

    def _draw(self, sample: Sample, style: str) -> list[bytes]:
        further = sample.split == HELD_OUT
        split = "base" if further else sample.split
        alphabet = int(sample.extra["alphabet"].removeprefix(split))
        character = int(sample.class_name.rpartition("character")[2])
        place = (self.config.seed, SPLITS.index(split), alphabet)
        stream = 2 if further else 1
        named = [] if style == "pen" else [*style.encode()]  # other hands draw in other styles
        rng = np.random.default_rng([*place, stream, character, *named])
        images = draw_images(
            rng,
            self._characters(place)[character],
            self.config.held_out_images if further else self.config.images,
            self.config.size,
        )
        return [png(image) for image in styled(images, style, rng)]

    def _characters(self, place: tuple[int, int, int]) -> list[Floats]:
        if place not in self._alphabets:
            rng = np.random.default_rng([*place, 0])
            self._alphabets[place] = new_alphabet(rng, self.config.characters)
        return self._alphabets[place]


def new_alphabet(rng: np.random.Generator, characters: int) -> list[Floats]:
    """Return the control points of each character, (s, CONTROLS, 2) in the unit box.

    Characters of a single stroke have few shapes to choose from: one that looks like another is
    drawn again. More characters leave the first ones as they are.
    """
    primitives = new_primitives(rng)
    found: list[Floats] = []
    while len(found) < characters:
        strokes = new_character(rng, primitives)
        if len(strokes) > 1 or not any(_alike(strokes, other) for other in found):
            found.append(strokes)
    return found


def new_primitives(rng: np.random.Generator) -> Floats:
    """Return the strokes an alphabet is made of, centred: (PRIMITIVES, CONTROLS, 2)."""
    makers = (_line, _arc, _s_curve, _hook)
    found = []
    for kind in rng.integers(0, len(makers), PRIMITIVES):
        points = makers[kind](rng)
        points = points - points.mean(0)
        points /= np.abs(points).max()
        found.append(points @ _turn(rng.uniform(0, 2 * np.pi)).T)
    return np.stack(found)


def new_character(rng: np.random.Generator, primitives: Floats) -> Floats:
    """Return the control points of one character in the unit box: (s, CONTROLS, 2)."""
    strokes: list[Floats] = []
    for _ in range(1 + rng.choice(len(STROKE_COUNTS), p=STROKE_COUNTS)):
        points = primitives[rng.integers(PRIMITIVES)] * rng.uniform(0.4, 1.0)
        if rng.random() < 0.5:
            points = points * np.array([-1.0, 1.0])
        if strokes and rng.random() < ATTACHED:
            anchor = strokes[rng.integers(len(strokes))][rng.integers(CONTROLS)]
            points = points - points[rng.integers(CONTROLS)] + anchor
        else:
            points = points + rng.uniform(-0.6, 0.6, 2)
        strokes.append(points)
    character = np.stack(strokes)
    low, high = character.min((0, 1)), character.max((0, 1))
    centred: Floats = (character - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-6)
    return centred


def _alike(one: Floats, other: Floats) -> bool:
    """Whether two single strokes have nearly the same shape, whichever end they begin at."""
    if len(one) != len(other):
        return False
    return any(
        np.linalg.norm(one[0] - way, axis=-1).mean() < ALIKE for way in (other[0], other[0][::-1])
    )


def draw_images(
    rng: np.random.Generator, strokes: Floats, images: int, size: int
) -> NDArray[np.uint8]:
    """Return one character drawn by `images` hands, strokes (s, CONTROLS, 2) -> (n, z, z)."""
    controls = strokes + rng.normal(0, CONTROL_NOISE, (images, *strokes.shape))  # (n, s, 5, 2)
    controls += rng.normal(0, OFFSET_NOISE, (images, len(strokes), 1, 2))
    angle, shear = rng.normal(0, ROTATION, images), rng.normal(0, SHEAR, images)
    slant = np.tile(np.eye(2), (images, 1, 1))  # (n, 2, 2)
    slant[:, 0, 1] = shear
    turn = np.moveaxis(_turn(angle), -1, 0)  # (n, 2, 2)
    affine = turn @ slant * rng.uniform(*SIZES, images)[:, None, None]
    curve = np.einsum("pk,nskd->nspd", _catmull_rom(CONTROLS, POINTS), controls)
    points = curve.reshape(images, -1, 2) @ affine.transpose(0, 2, 1)  # (n, s * p, 2)
    points += rng.uniform(-SHIFT, SHIFT, (images, 1, 2))
    return _ink(points.astype(np.float32), rng.uniform(*RADII, images).astype(np.float32), size)


def png(image: NDArray[np.uint8]) -> bytes:
    """Return a grey PNG of pixels (z, z)."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def _ink(points: NDArray[np.float32], radius: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Return a round pen's trace along points (n, p, 2), with an edge one pixel soft: (n, z, z).

    Goes point by point over all images, so that the running minimum stays in the cache.
    """
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    across = np.square(points[:, :, 0, None] - axis)  # (n, p, z)
    down = np.square(points[:, :, 1, None] - axis)  # (n, p, z)
    nearest = np.full((len(points), size, size), np.inf, np.float32)
    here = np.empty_like(nearest)
    for point in range(points.shape[1]):
        np.add(down[:, point, :, None], across[:, point, None, :], out=here)
        np.minimum(nearest, here, out=nearest)
    inside = (radius[:, None, None] - np.sqrt(nearest)) * (size / 2) + 0.5
    pixels: NDArray[np.uint8] = np.round(255 * np.clip(inside, 0, 1)).astype(np.uint8)
    return pixels


def _catmull_rom(controls: int, points: int) -> Floats:
    """Return the weights (points, controls) of a Catmull-Rom curve through all controls."""
    weights = np.zeros((points, controls))
    for row, at in enumerate(np.linspace(0, controls - 1, points)):
        left = min(int(at), controls - 2)
        t = at - left
        basis = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (t**3 - t**2) / 2,
        )
        for step, weight in zip(range(left - 1, left + 3), basis, strict=True):
            weights[row, min(max(step, 0), controls - 1)] += weight
    return weights


def _turn(angle: float | Floats) -> Floats:
    """Return rotation matrices, (2, 2, ...)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _line(rng: np.random.Generator) -> Floats:
    t = np.linspace(-1, 1, CONTROLS)
    return np.stack([t, rng.uniform(-0.15, 0.15) * (1 - t**2)], 1)


def _arc(rng: np.random.Generator) -> Floats:
    t = np.linspace(0, rng.uniform(0.6, 1.7) * np.pi, CONTROLS)
    return np.stack([np.cos(t), rng.uniform(0.6, 1.0) * np.sin(t)], 1)


def _s_curve(rng: np.random.Generator) -> Floats:
    t = np.linspace(-1, 1, CONTROLS)
    return np.stack([t, rng.uniform(0.35, 0.7) * np.sin(np.pi * t)], 1)


def _hook(rng: np.random.Generator) -> Floats:
    t = np.linspace(0, rng.uniform(0.8, 1.3) * np.pi, 3)
    bow = rng.uniform(0.2, 0.4) * np.stack([1 - np.cos(t), np.sin(t)], 1)  # (3, 2)
    return np.concatenate([[[0.0, -1.5], [0.0, -0.75]], bow])
