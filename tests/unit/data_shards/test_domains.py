"""Class folders in folders of domains, as PACS and DomainNet come."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_shards.domains import Domains, DomainsConfig
from data_shards.location import Location
from data_shards.selection import rows_where
from data_shards.writer import write_shards
from fsl.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for domain in ("photo", "sketch"):
        for name in ("dog", "horse"):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for number in range(5):
                pixels = rng.integers(0, 256, (12, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_a_share_of_each_class_and_domain_is_held_out(root: Path, tmp_path: Path) -> None:
    config = DomainsConfig(root=root, held_out=0.4)
    counts: dict[tuple[str, ...], int] = {}
    for sample in Domains(config).samples():
        key = (sample.split, sample.extra["domain"], sample.class_name)
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        (split, domain, name): number
        for split, number in (("base", 3), ("held_out", 2))
        for domain in ("photo", "sketch")
        for name in ("dog", "horse")
    }
    shards = write_shards(config, Location.parse(tmp_path / "shards"))
    assert len(rows_where(shards.split("held_out"), {"domain": ["sketch"]})) == 4


def test_the_share_depends_on_the_seed_only(root: Path) -> None:
    def held_out(**settings: object) -> set[str]:
        config = DomainsConfig.model_validate({"root": root, "held_out": 0.4, **settings})
        return {s.origin for s in Domains(config).samples() if s.split == "held_out"}

    assert held_out() == held_out() != held_out(split_seed=1)
    assert held_out(domains=["sketch"]) == {o for o in held_out() if o.startswith("sketch/")}


def test_published_lists_are_followed(root: Path) -> None:
    (root / "sketch_test.txt").write_text("sketch/dog/1.png 0\nsketch/horse/4.png 1\n")
    samples = Domains(DomainsConfig(root=root, domains=("sketch",))).samples()
    assert {s.origin for s in samples if s.split == "held_out"} == {
        "sketch/dog/1.png", "sketch/horse/4.png",
    }  # fmt: skip
    assert sum(s.split == "base" for s in samples) == 8


def test_what_is_wrong_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder 'skech'.*sketch"):
        Domains(DomainsConfig(root=root, domains=("skech",))).samples()
    with pytest.raises(ValueError, match="name each domain once"):
        DomainsConfig(root=root, domains=("sketch", "sketch"))
    with pytest.raises(ConfigError, match=r"root/DOMAIN/CLASS"):
        Domains(DomainsConfig(root=root / "photo")).samples()
    with pytest.raises(ConfigError, match=r"all images of class 'dog' are held out"):
        Domains(DomainsConfig(root=root, held_out=0.95)).samples()
    (root / "sketch_test.txt").write_text("sketch/dog/9.png 0\n")
    with pytest.raises(ConfigError, match=r"sketch_test\.txt: sketch/dog/9\.png is not below"):
        Domains(DomainsConfig(root=root)).samples()
    (root / "sketch_test.txt").write_bytes(b"sketch/caf\xe9/9.png 0\n")
    with pytest.raises(ConfigError, match=r"sketch_test\.txt: cannot be read as a list"):
        Domains(DomainsConfig(root=root)).samples()
