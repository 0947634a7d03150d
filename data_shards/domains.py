"""The same classes in several domains: PACS, VLCS, OfficeHome, TerraIncognita, DomainNet.

    root/<domain>/<class>/*.jpg

Every image has the field `domain`. Which images of a domain are held out says its published list
`root/<domain>_test.txt` (DomainNet: lines of path and class number), or else a share of each class.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from data_shards.image_files import (
    ImageFiles,
    ImageFilesConfig,
    class_samples,
    directories,
    report_left_out,
)
from data_shards.sources import SOURCES, Sample
from data_shards.splits import HELD_OUT
from fsl.errors import ConfigError, did_you_mean


class DomainsConfig(ImageFilesConfig):
    """Settings of `Domains`."""

    name: Literal["domains"] = "domains"
    domains: tuple[str, ...] = ()
    """Which; empty for all folders in `root`."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the images of each class and domain for the split `held_out`; domains with a list of
    test images do not use it."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed by which that share is drawn."""

    @field_validator("domains")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each domain once")
        return value


@SOURCES.register("domains")
class Domains(ImageFiles[DomainsConfig]):
    """Class folders in folders of domains."""

    Config = DomainsConfig

    def samples(self) -> list[Sample]:
        """Return all samples, by domain, class and path."""
        return self._samples

    @cached_property
    def _samples(self) -> list[Sample]:
        there = directories(self.root)
        for name in self.config.domains:
            if name not in there:
                raise ConfigError(
                    f"domains: {self.root} has no folder {name!r}{did_you_mean(name, there)}"
                )
        others: Counter[str] = Counter()
        domains = self.config.domains or there
        found = [
            sample
            for domain in domains
            for sample in self._of_domain(domain, directories(self.root / domain), others)
        ]
        if not found:
            raise ConfigError(f"root: {self.root}: holds no folders root/DOMAIN/CLASS")
        trained = {sample.class_name for sample in found if sample.split == "base"}
        strange = {sample.class_name for sample in found} - trained
        if strange:
            raise ConfigError(
                f"root: {self.root}: all images of class {min(strange)!r} are held out; "
                "lower held_out, or remove the class"
            )
        report_left_out(self.root, (".", *domains), others)
        return found

    def _of_domain(self, domain: str, classes: list[str], others: Counter[str]) -> list[Sample]:
        images = [
            sample._replace(extra={"domain": domain})
            for name in classes
            for sample in class_samples(self.root, f"{domain}/{name}", "base", name, others)
        ]
        listed = self.root / f"{domain}_test.txt"
        held_out = _listed(listed) if listed.is_file() else self._drawn(domain, images)
        strange = held_out - {sample.origin for sample in images}
        if strange:
            raise ConfigError(f"{listed}: {min(strange)} is not below {self.root / domain}")
        return [
            sample._replace(split=HELD_OUT) if sample.origin in held_out else sample
            for sample in images
        ]

    def _drawn(self, domain: str, images: list[Sample]) -> set[str]:
        """Return the origins that are held out, so many of each class."""
        of_class: dict[str, list[str]] = {}
        for sample in images:
            of_class.setdefault(sample.class_name, []).append(sample.origin)
        drawn: set[str] = set()
        for name, origins in of_class.items():
            rng = random.Random(f"{self.config.split_seed}/{domain}/{name}")
            drawn.update(rng.sample(origins, round(self.config.held_out * len(origins))))
        return drawn


def _listed(path: Path) -> set[str]:
    """Return the paths of a list with lines of path and class number."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as a list of images: {reason}") from None
    return {line.rpartition(" ")[0].strip() for line in lines if line.strip()}
