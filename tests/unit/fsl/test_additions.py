"""Additions in general: absent when a method answers, refused where they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fsl.additions import ADDITIONS, AdditionConfig
from fsl.additions.drloc import DRLoc
from fsl.errors import ConfigError
from fsl.toys import toy_episode
from tests.riding import CARRIERS, CONV, IMAGES, VIT, made, supervised


@pytest.mark.parametrize("name", ["drloc", "batchformer"])
def test_in_evaluation_additions_do_nothing(name: str) -> None:
    method, plain = supervised({name: {}}).eval(), supervised({}).eval()
    episode = toy_episode(images=IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(method.classify(episode), plain.classify(episode))
        assert torch.equal(method.mix(torch.ones(3, 32)), torch.ones(3, 32))
    assert not any(
        addition._seen[0] for addition in method.additions.values() if isinstance(addition, DRLoc)
    )


REFUSED: list[tuple[Any, Any, Any, str]] = [
    ({"name": "protonet"}, {"batchformer": {}}, VIT, r"rides on .*supervised"),
    (CARRIERS["supervised"], {"batchformer": {"heads": 5}}, VIT, "heads: 5 does not divide"),
    (CARRIERS["supervised"], {"batchformer": {"after_blocks": [7]}}, VIT, "blocks 0 to 2"),
    (
        CARRIERS["supervised"],
        {"batchformer": {"after_blocks": [1]}},
        CONV,
        "after_blocks: Conv4 does not",
    ),
    (CARRIERS["smkd"], {"batchformer": {"after_blocks": [1]}}, VIT, "remove after_blocks"),
    (CARRIERS["supervised"], {"drloc": {"layers": "stages"}}, VIT, "stages"),
]


@pytest.mark.parametrize(("method", "additions", "backbone", "message"), REFUSED)
def test_what_does_not_fit_is_refused(
    method: Any, additions: Any, backbone: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(method, additions, backbone)


@pytest.mark.parametrize(
    ("additions", "message"),
    [
        ({"drlok": {}}, "unknown addition 'drlok'; did you mean 'drloc'"),
        ({"drloc": {"weigth": 1}}, r"additions\.drloc\.weigth: unknown key; did you mean 'weight'"),
        ({"drloc": {"name": "batchformer"}}, "list it under that name"),
        ({"drloc": 3}, "expected a mapping"),
        ({"drloc": {"loss": "gaussian", "target_scale": "unit"}}, "whole cells"),
        ({"batchformer": {"after_blocks": [3, 1]}}, "rising order"),
    ],
)
def test_bad_settings_name_the_key(additions: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        supervised(additions)


def test_every_addition_has_its_settings_class() -> None:
    for name in ADDITIONS.names():
        assert issubclass(ADDITIONS.get(name).Config, AdditionConfig)
        assert ADDITIONS.get(name).Config().name == name
