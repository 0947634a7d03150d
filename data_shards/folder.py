"""Folders of class folders, with the split as folders above, as lists of classes, or dealt out."""

from __future__ import annotations

import logging
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_shards.image_files import (
    ImageFiles,
    ImageFilesConfig,
    class_samples,
    directories,
    report_left_out,
)
from data_shards.sources import SOURCES, Sample
from data_shards.splits import (
    ALIASES,
    check_disjoint,
    merge_aliases,
    read_class_list,
    read_split_file,
    split_by_ratio,
)
from fsl.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)


class FolderConfig(ImageFilesConfig):
    """Settings of `Folder`. Without `splits` and `ratios`: root/{base,val,novel,held_out}/class."""

    name: Literal["folder"] = "folder"
    splits: Path | dict[str, Path | list[str]] | None = None
    """One JSON file with the classes of all splits, or for each split its classes as a list or as
    a text or JSON file. The class folders then lie directly in root."""
    ratios: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Shares of the classes for base, val and novel, dealt out at random."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of that dealing out."""

    @model_validator(mode="after")
    def _one_way_to_split(self) -> FolderConfig:
        if self.splits is not None and self.ratios is not None:
            raise ValueError("give splits or ratios, not both")
        return self


@SOURCES.register("folder")
class Folder(ImageFiles[FolderConfig]):
    """Images in class folders."""

    Config = FolderConfig

    def samples(self) -> list[Sample]:
        """Return all samples, by split, class and path."""
        return self._samples

    @cached_property
    def _samples(self) -> list[Sample]:
        others: Counter[str] = Counter()
        directories_of = self._folders()
        found = [
            sample
            for split, folders in directories_of.items()
            for class_name, folder in folders.items()
            for sample in class_samples(self.root, folder, split, class_name, others)
        ]
        classes = [
            Path(folder) for folders in directories_of.values() for folder in folders.values()
        ]
        above = {parent.as_posix() for folder in classes for parent in folder.parents}
        report_left_out(self.root, above, others)
        return found

    def _folders(self) -> dict[str, dict[str, str]]:
        """Return split -> class name -> folder relative to root."""
        found = directories(self.root)
        if not found:
            raise ConfigError(f"root: {self.root}: holds no folders")
        if self.config.splits is not None:
            classes = self._listed(found)
        elif self.config.ratios is not None:
            classes = split_by_ratio(found, self.config.ratios, self.config.split_seed)
        else:
            return self._split_folders(found)
        return {split: {name: name for name in names} for split, names in classes.items()}

    def _split_folders(self, found: list[str]) -> dict[str, dict[str, str]]:
        odd = [name for name in found if name.lower() not in ALIASES]
        if odd:
            raise ConfigError(
                f"root: {self.root}: folder {odd[0]!r} is none of base, val, novel (or train, "
                "valid, test), held_out; give the split of the classes by `splits` or `ratios`"
            )
        parents = merge_aliases({name: name for name in found}, str(self.root))
        folders = {
            split: {name: f"{parent}/{name}" for name in directories(self.root / parent)}
            for split, parent in parents.items()
        }
        for split, names in folders.items():
            if not names:
                raise ConfigError(f"{self.root / parents[split]}: holds no class folders")
        check_disjoint(folders, str(self.root))
        return folders

    def _listed(self, found: list[str]) -> dict[str, list[str]]:
        given = self.config.splits
        if isinstance(given, Path):
            classes = read_split_file(given.expanduser())
        else:
            lists = {
                split: value if isinstance(value, list) else read_class_list(value.expanduser())
                for split, value in (given or {}).items()
            }
            classes = merge_aliases(lists, "splits")
        check_disjoint(classes, "splits")
        for split, names in classes.items():
            for name in names:
                if name not in found:
                    raise ConfigError(
                        f"splits: class {name!r} of {split!r} has no folder in {self.root}"
                        f"{did_you_mean(name, found)}"
                    )
        if not classes:
            raise ConfigError("splits: lists no classes")
        unused = set(found) - {name for names in classes.values() for name in names}
        if unused:
            logger.info("%s: %d folders are in no split and left out", self.root, len(unused))
        return classes
