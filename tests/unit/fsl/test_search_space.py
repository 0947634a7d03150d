"""Search ranges: collected from any depth, under the keys that overrides use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fsl.config import Section, build
from fsl.search_space import Choice, IntRange, Uniform, search_space


class Leaf(Section):
    rate: Annotated[float, Field(gt=0), Uniform(0.1, 1.0, log=True)] = 0.5
    fixed: int = 3


class Tree(Section):
    depth: Annotated[int, Field(ge=1), IntRange(1, 8, step=2)] = 2
    shape: Annotated[tuple[float, float], Choice((0.1, 1.0), (0.2, 1.0))] = (0.1, 1.0)
    leaf: Leaf = Leaf()
    leaves: dict[str, Leaf] = Field(default_factory=lambda: {"a": Leaf()})
    row: list[Leaf] = Field(default_factory=lambda: [Leaf(), Leaf()])
    maybe: Leaf | None = None
    warm: Annotated[int, Field(ge=0), IntRange(0, 5)] | None = None


def test_ranges_of_all_sections_get_dotted_keys() -> None:
    rate = Uniform(0.1, 1.0, log=True)
    assert search_space(Tree()) == {
        "depth": IntRange(1, 8, step=2),
        "shape": Choice((0.1, 1.0), (0.2, 1.0)),
        "leaf.rate": rate,
        "leaves.a.rate": rate,
        "row.0.rate": rate,
        "row.1.rate": rate,
        "warm": IntRange(0, 5),
    }


def test_a_section_that_is_null_has_no_ranges_until_it_is_there() -> None:
    assert "maybe.rate" not in search_space(Tree())
    assert "maybe.rate" in search_space(Tree(maybe=Leaf()))


def test_every_key_can_be_set_through_build() -> None:
    tree = Tree(maybe=Leaf()).model_dump(mode="json")
    sampled = {"depth": 7, "leaves.a.rate": 0.25, "row.1.rate": 0.75, "shape": [0.2, 1.0]}
    config = build(Tree, tree, sampled)
    assert config.depth == 7
    assert config.leaves["a"].rate == 0.25
    assert (config.row[0].rate, config.row[1].rate) == (0.5, 0.75)
    assert config.shape == (0.2, 1.0)


def test_choices_compare_by_their_options() -> None:
    assert Choice(1, 2) == Choice(1, 2)
    assert Choice(1, 2) != Choice(2, 1)
    assert Choice("a").options == ("a",)
