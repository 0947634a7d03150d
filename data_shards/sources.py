"""Where samples come from: the contract of a source, and the sources by name.

A source lists its samples first (split, class, origin: no pixels) and reads single ones later, so
the writer can shuffle a data set that does not fit into memory. Everything is a function of the
settings and of the files they name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from data_shards.splits import HELD_OUT, check_disjoint
from fsl.config import Section, tagged
from fsl.registry import Registry


class SourceConfig(Section):
    """Base of the settings of a source."""

    name: str
    shared_images: Literal["refuse", "warn"] = "refuse"
    """What to do when the same image bytes occur in two splits."""


C = TypeVar("C", bound=SourceConfig)


class Sample(NamedTuple):
    """One image before it is read.

    Attributes:
        split: "base", "val", "novel" or "held_out".
        class_name: name of its class, of one split only (of `base` and `held_out` alike).
        origin: where it is within the source, unique; for people and for error messages.
        extra: further text fields, the same names for all samples (alphabet, domain).
    """

    split: str
    class_name: str
    origin: str
    extra: Mapping[str, str] = {}


class Source(ABC, Generic[C]):
    """Base class of sources.

    Attributes:
        Config: the settings class.
    """

    Config: ClassVar[type[SourceConfig]]

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """Return all samples, in an order that only the settings and the files decide."""

    @abstractmethod
    def read(self, sample: Sample) -> bytes:
        """Return the encoded image (JPEG or PNG). Called from several threads at once."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a cheap sha256 that changes when the images may have changed.

        It covers what the settings do not: names, sizes and times of files, or checksums where an
        archive has them. It does not contain the place where the files lie.
        """


SOURCES: Registry[type[Source[Any]]] = Registry(
    "source", "data_shards.builtin_sources", "fewshot.sources"
)
AnySourceConfig = tagged(SOURCES)
"""The settings of any registered source, chosen by `name`."""


def build_source(config: SourceConfig) -> Source[Any]:
    """Return the source that `config` describes."""
    return SOURCES.get(config.name)(config)


def classes_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Return the class names of each split, sorted: a label is a position in its list.

    `held_out` has the list of `base`, so a class has the same number in both.
    """
    found: dict[str, set[str]] = {}
    for sample in samples:
        found.setdefault(sample.split, set()).add(sample.class_name)
    if HELD_OUT in found:
        check_disjoint(found, "the samples")
        found[HELD_OUT] = found["base"]
    return {split: sorted(names) for split, names in found.items()}
