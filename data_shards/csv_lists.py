"""One CSV of images per split, as miniImageNet's and easyfsl's lists come.

Header `filename,label` (Ravi and Larochelle; ICLR 2017) or `class_name,image_name` (easyfsl).
"""

from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from data_shards.image_files import ImageFiles, ImageFilesConfig
from data_shards.manifest import COLUMNS
from data_shards.sources import SOURCES, Sample
from data_shards.splits import ALL_SPLITS, check_disjoint
from fsl.errors import ConfigError

RESERVED = {*COLUMNS, "origin"}
HEADERS = (("filename", "label"), ("image_name", "class_name"))


class CsvConfig(ImageFilesConfig):
    """Settings of `CsvLists`."""

    name: Literal["csv"] = "csv"
    base: Path | None = None
    """List of the base (training) images."""
    val: Path | None = None
    """List of the validation images."""
    novel: Path | None = None
    """List of the novel (test) images."""
    held_out: Path | None = None
    """List of further images of the base classes."""
    fields: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Further columns to keep, such as domain, or attribute and object; every list has them."""

    @field_validator("fields")
    @classmethod
    def _names_are_free(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in RESERVED or value.count(name) > 1:
                raise ValueError(
                    f"{name!r} is {'named twice' if name not in RESERVED else 'a column of ours'}; "
                    "rename the column in the lists, or remove it"
                )
        return value

    @model_validator(mode="after")
    def _some_list(self) -> CsvConfig:
        if all(getattr(self, split) is None for split in ALL_SPLITS):
            raise ValueError("give the CSV file of at least one of base, val, novel, held_out")
        return self


@SOURCES.register("csv")
class CsvLists(ImageFiles[CsvConfig]):
    """Images listed in CSV files; each lies at root/file or at root/class/file."""

    Config = CsvConfig

    def samples(self) -> list[Sample]:
        """Return all samples, in the order of the lists."""
        return self._samples

    @cached_property
    def _samples(self) -> list[Sample]:
        lists = {split: getattr(self.config, split) for split in ALL_SPLITS}
        found = {
            split: self._rows(split, path.expanduser())
            for split, path in lists.items()
            if path is not None
        }
        classes = {split: {sample.class_name for sample in rows} for split, rows in found.items()}
        check_disjoint(classes, " and ".join(str(path) for path in lists.values() if path))
        return [sample for rows in found.values() for sample in rows]

    def _rows(self, split: str, path: Path) -> list[Sample]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream, skipinitialspace=True)
                columns = _columns(reader.fieldnames or [], path)
                rows = [
                    self._sample(split, row, columns, f"{path}, line {reader.line_num}")
                    for row in reader
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{split}: {path} cannot be read as CSV: {reason}") from None
        if not rows:
            raise ConfigError(f"{path}: lists no images")
        origins: set[str] = set()
        for sample in rows:
            if sample.origin in origins:
                raise ConfigError(f"{path}: {sample.origin} is listed twice")
            origins.add(sample.origin)
        return rows

    def _sample(
        self, split: str, row: dict[str, str | None], columns: tuple[str, str], where: str
    ) -> Sample:
        name, class_name = (row.get(column) for column in columns)
        if not name or not class_name:
            raise ConfigError(f"{where}: a row needs {columns[0]} and {columns[1]}, this is {row}")
        extra = {field: row.get(field) or "" for field in self.config.fields}
        empty = [field for field, value in extra.items() if not value]
        if empty:
            raise ConfigError(f"{where}: nothing in column {empty[0]!r}, which `fields` asks for")
        for origin in (name, f"{class_name}/{name}"):
            if (self.root / origin).is_file():
                return Sample(split, class_name, origin, extra)
        raise ConfigError(
            f"{where}: no file {self.root / name}, nor {self.root / class_name / name}"
        )


def _columns(header: list[str] | tuple[str, ...] | object, path: Path) -> tuple[str, str]:
    names = list(header) if isinstance(header, (list, tuple)) else []
    for columns in HEADERS:
        if set(columns) <= set(names):
            return columns
    raise ConfigError(
        f"{path}: header {','.join(names)!r}; expected filename,label or class_name,image_name"
    )
