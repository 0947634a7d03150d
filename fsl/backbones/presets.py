"""Sizes of networks by name, and single settings that differ from them."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from fsl.backbones import BackboneConfig

Shape = TypeVar("Shape", bound=NamedTuple)


def put_over(preset: Shape, settings: BackboneConfig) -> Shape:
    """Return the preset with those fields changed of which the settings say something.

    Every field of the preset is a setting of the same name, None where nothing is said.
    """
    given = {name: getattr(settings, name) for name in preset._fields}
    return preset._replace(**{name: value for name, value in given.items() if value is not None})
