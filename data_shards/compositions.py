"""Generated compositions: characters (objects) in styles of drawing (attributes).

A class is a pair of the two. Some pairs never occur in training, though each style and each
character does: a compositional zero-shot learner has to recognise them from their parts.
"""

from __future__ import annotations

import threading
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from data_shards.sources import SOURCES, Sample, Source, SourceConfig
from data_shards.splits import HELD_OUT
from data_shards.styles import STYLES, styled
from data_shards.synthetic import draw_images, new_alphabet, png
from fsl.config import digest

VERSION = 1
"""Raise when equal settings begin to give other images."""
SPLIT_OF = {0: "novel", 1: "val"}
"""Split of the pairs by (character + style) modulo the number of styles; base for the others."""
STREAMS = {"base": 0, HELD_OUT: 1, "val": 2, "novel": 3}


class CompositionsConfig(SourceConfig):
    """Settings of `Compositions`."""

    name: Literal["compositions"] = "compositions"
    size: Annotated[int, Field(ge=8, le=256)] = 32
    """Side of the images in pixels."""
    characters: Annotated[int, Field(ge=5, le=1_000)] = 15
    """Objects. With five styles there are five times as many pairs: three fifths are seen in
    training, a fifth is for validation (`val`), a fifth for the test (`novel`)."""
    images: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Training images per seen pair."""
    held_out_images: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Test images per pair, seen or not."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Another seed, other characters."""


@SOURCES.register("compositions")
class Compositions(Source[CompositionsConfig]):
    """Classes are pairs `style character`, with the fields attribute and object."""

    Config = CompositionsConfig

    def __init__(self, config: CompositionsConfig) -> None:
        super().__init__(config)
        rng = np.random.default_rng([config.seed, 0])
        self._strokes = new_alphabet(rng, config.characters)
        self._drawn: dict[tuple[str, str], list[bytes]] = {}
        self._lock = threading.Lock()

    def samples(self) -> list[Sample]:
        """Return all samples, by split, character, style and image."""
        pairs = [
            (SPLIT_OF.get((character + number) % len(STYLES), "base"), style, character)
            for character in range(self.config.characters)
            for number, style in enumerate(STYLES)
        ]
        found = []
        for split in STREAMS:
            owner = "base" if split == HELD_OUT else split
            count = self.config.images if split == "base" else self.config.held_out_images
            for own, style, character in pairs:
                if own == owner:
                    found += [_sample(split, style, character, image) for image in range(count)]
        return found

    def read(self, sample: Sample) -> bytes:
        """Return the grey PNG."""
        key = sample.split, sample.class_name
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = self._draw(sample)
        return self._drawn[key][int(sample.origin.rpartition("/")[2])]

    def fingerprint(self) -> str:
        """Return the sha256 of the version of the drawing."""
        return digest(["compositions", VERSION])

    def _draw(self, sample: Sample) -> list[bytes]:
        style, character = sample.extra["attribute"], int(sample.extra["object"][-3:])
        place = (self.config.seed, 1, STREAMS[sample.split], [*STYLES].index(style), character)
        rng = np.random.default_rng(place)
        count = self.config.images if sample.split == "base" else self.config.held_out_images
        images = draw_images(rng, self._strokes[character], count, self.config.size)
        return [png(image) for image in styled(images, style, rng)]


def _sample(split: str, style: str, character: int, image: int) -> Sample:
    name = f"character{character:03d}"
    extra = {"attribute": style, "object": name}
    return Sample(split, f"{style} {name}", f"{split}/{style}/{name}/{image:02d}", extra)
