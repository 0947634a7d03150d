"""CSV lists of images: headers, layouts, further columns, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsl.errors import ConfigError
from tests.unit.data_shards.test_sources import found, plant, source


@pytest.mark.parametrize(
    ("header", "row"),
    [("filename,label", "{file},{name}"), ("class_name,image_name", "{name},{file}")],
)
@pytest.mark.parametrize("nested", [False, True])
def test_csv_reads_both_headers_and_both_layouts(
    tmp_path: Path, header: str, row: str, nested: bool
) -> None:
    names = {"ant": "a1.png", "bee": "b1.png"}
    plant(tmp_path, [f"{c}/{f}" if nested else f for c, f in names.items()])
    for split, name in (("base", "ant"), ("novel", "bee")):
        line = row.format(name=name, file=names[name])
        (tmp_path / f"{split}.csv").write_text(f"{header}\n{line}\n")
    lists = {split: str(tmp_path / f"{split}.csv") for split in ("base", "novel")}
    some = source(name="csv", root=str(tmp_path), **lists)
    prefix = {name: f"{name}/" if nested else "" for name in names}
    assert found(some) == {
        ("base", "ant", f"{prefix['ant']}a1.png"),
        ("novel", "bee", f"{prefix['bee']}b1.png"),
    }
    assert some.read(some.samples()[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.png,ant\n", "header 'file,class'; expected filename,label or"),
        ("", "header ''"),
        ("filename,label\n", "lists no images"),
        ("filename,label\na.png,ant\nz.png,ant\n", r"base.csv, line 3: no file .*z.png"),
        ("filename,label\na.png\n", "line 2: a row needs filename and label"),
        ("filename,label\na.png,ant\na.png,ant\n", "a.png is listed twice"),
    ],
)
def test_csv_explains_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    plant(tmp_path, ["a.png"])
    (tmp_path / "base.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        source(name="csv", root=str(tmp_path), base=str(tmp_path / "base.csv")).samples()


def test_csv_keeps_the_fields_asked_for_and_further_images_of_base(tmp_path: Path) -> None:
    plant(tmp_path, ["a.png", "b.png"])
    for split, name, domain in (("base", "a", "photo"), ("held_out", "b", "sketch")):
        text = f"filename,label,domain,note\n{name}.png,ant,{domain},x\n"
        (tmp_path / f"{split}.csv").write_text(text)
    lists = {split: str(tmp_path / f"{split}.csv") for split in ("base", "held_out")}
    some = source(name="csv", root=str(tmp_path), fields=["domain"], **lists)
    assert [(s.split, dict(s.extra)) for s in some.samples()] == [
        ("base", {"domain": "photo"}),
        ("held_out", {"domain": "sketch"}),
    ]
    with pytest.raises(ConfigError, match="nothing in column 'style'"):
        source(name="csv", root=str(tmp_path), fields=["style"], **lists).samples()


def test_a_changed_field_is_another_data_set(tmp_path: Path) -> None:
    plant(tmp_path, ["a.png"])
    prints = []
    for domain in ("photo", "sketch"):
        (tmp_path / "base.csv").write_text(f"filename,label,domain\na.png,cat,{domain}\n")
        csv = source(
            name="csv", root=str(tmp_path), base=str(tmp_path / "base.csv"), fields=["domain"]
        )
        prints.append(csv.fingerprint())
    assert prints[0] != prints[1]


@pytest.mark.parametrize("name", ["label", "split", "origin", "key"])
def test_csv_keeps_no_field_under_a_name_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name!r} is a column of ours"):
        source(name="csv", root=str(tmp_path), base="base.csv", fields=[name])


def test_csv_needs_a_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one of base, val, novel"):
        source(name="csv", root=str(tmp_path))
