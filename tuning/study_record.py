"""`study.yaml`: a study's settings with its recipes in them, so that the directory says everything.

It is itself a study file. A study may go on only with settings that leave its trials comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import yaml
from pydantic import BaseModel

from data_shards.location import Location
from fsl.config import build
from fsl.errors import ConfigError, FewShotError
from pipelines.credentials import without_credentials
from tuning.branch_config import BranchConfig
from tuning.config import StudyConfig
from tuning.recipe_tree import read_tree
from tuning.search_keys import is_runtime
from tuning.space import Branch, Space, build_space

SETTINGS = "study.yaml"
FROZEN = ("seed", "goals", "sampler", "pruner", "population", "warm_start")
"""What trials have in common, besides the recipes."""
HEAD = "# Settings of this study, as it was last run. `fewshot tune` takes this file as well.\n"


def write_settings(root: Location, config: StudyConfig) -> None:
    """Write the settings of a study into its directory."""
    short = set(BranchConfig.model_fields)
    inlined = {label: _inlined(branch) for label, branch in config.recipes.items()}
    whole = config.model_copy(update={"recipes": inlined})
    left_out = {*short, "study_dir"}
    if config.population is not None:
        left_out |= {"sampler", "pruner"}  # it takes their place
    content = whole.model_dump(mode="json", exclude=left_out, exclude_none=True)
    text: str = yaml.safe_dump(content, sort_keys=False)
    (root / SETTINGS).write_text(HEAD + without_credentials(text))


def read_settings(root: Location) -> StudyConfig | None:
    """Return the settings in a study's directory, or None when it has none yet.

    Raises:
        ConfigError: they are damaged, or of a version that is not understood.
    """
    place = root / SETTINGS
    if not place.exists():
        return None
    try:
        content = yaml.safe_load(place.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: not the settings of a study")
    return build(StudyConfig, {**content, "study_dir": str(root)}, origin=str(place))


def check_continues(root: Location, before: StudyConfig, config: StudyConfig, space: Space) -> None:
    """Refuse settings under which the study's earlier trials would mean something else.

    Raises:
        ConfigError: names the first difference and the remedy.
    """
    remedy = "take that back, or begin another study with study_dir=..."
    try:
        earlier = build_space(before)
    except FewShotError as error:
        raise ConfigError(
            f"{root / SETTINGS}: the study that is here cannot be continued: {error}; begin "
            "another one with study_dir=..."
        ) from None
    for path, old, new in _changes(before, earlier, config, space):
        raise ConfigError(
            f"{root}: the study that is here has {path}: {old!r}, and now it is {new!r}, so its "
            f"trials could not be compared; {remedy}"
        )


def _changes(
    before: StudyConfig, earlier: Space, config: StudyConfig, space: Space
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what is different: where, what it was, what it is."""
    for name in FROZEN:
        yield from differences(getattr(before, name), getattr(config, name), name)
    yield from differences(sorted(earlier.branches), sorted(space.branches), "recipes")
    for label, new in space.branches.items():
        old, where = earlier.branches[label], new.searched.where
        points = before.recipes[label].points, config.recipes[label].points
        for name, one, two in (
            ("stage", old.objective, new.objective),
            ("stages", dict(old.recipe().stages), dict(new.recipe().stages)),
            ("search", _ranges(old), _ranges(new)),
            ("points", *points),
        ):
            yield from differences(one, two, where + name)


def differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the places where two settings differ, without those that cannot change a result.

    Credentials in addresses are no difference: the settings on disk are without them.
    """
    if isinstance(old, BaseModel) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            if not is_runtime(field):
                yield from differences(getattr(old, name), getattr(new, name), f"{path}.{name}")
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(old.get(name), new.get(name), f"{path}.{name}")
    elif _shown(old) != _shown(new):
        yield path, _shown(old), _shown(new)


def _shown(value: Any) -> Any:
    """Return a value as files and messages have it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_shown(item) for item in value]
    return without_credentials(value) if isinstance(value, str) else value


def _ranges(branch: Branch) -> dict[str, Any]:
    return {d.name: asdict(d.domain) for d in branch.dimensions}


def _inlined(branch: BranchConfig) -> BranchConfig:
    return branch.model_copy(update={"recipe": read_tree(branch)})
