"""How the queries of an evaluation are answered: by the method itself, or by a head on features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fsl.config import tagged
from fsl.episode_heads import HEADS, HeadConfig
from fsl.registry import Registry

OWN = "method"


class OwnConfig(HeadConfig):
    """The method's own classifier; a baseline without one takes the nearest mean by cosine."""

    name: Literal["method"] = "method"
    features: Literal["none"] = "none"
    """A method prepares its features itself."""


class Own:
    """Stands for `Method.logits` among the heads."""

    Config = OwnConfig


class _Protocols(Registry[Any]):
    """All heads, and `method`; a name alone stands for the default settings."""

    def get(self, name: str) -> Any:
        return Own if name == OWN else HEADS.get(name)

    def names(self) -> list[str]:
        return [OWN, *HEADS.names()]

    def parse(self, value: Any) -> Any:
        return super().parse({self.tag: value} if isinstance(value, str) else value)


PROTOCOLS = _Protocols("protocol", "fsl.episode_heads", "fsl.heads")
AnyProtocol = tagged(PROTOCOLS)
"""`method`, or the settings of a head: a mapping with `name`, or the name alone."""


def protocol_names(protocols: Sequence[HeadConfig]) -> list[str]:
    """Return what each is called in tables: its name, with settings where a name occurs twice."""
    names = [protocol.name for protocol in protocols]
    return [
        _with_settings(protocol) if names.count(protocol.name) > 1 else protocol.name
        for protocol in protocols
    ]


def _with_settings(protocol: HeadConfig) -> str:
    changed = protocol.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    return "_".join([protocol.name, *(f"{key}_{value}" for key, value in changed.items())])
