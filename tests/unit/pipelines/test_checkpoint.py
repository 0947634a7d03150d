"""Checkpoints: what is loaded is what was saved, and what is damaged or foreign is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.location import Location
from fsl.errors import CheckpointError, StorageError
from fsl.method import Method
from pipelines.checkpoint import (
    MODEL,
    SCORE,
    STATE,
    Checkpoint,
    CheckpointInfo,
    trained_config,
    write_checkpoint,
    write_pointers,
)
from pipelines.model import fresh_method, load_model
from pipelines.optim import build_optimizer
from tests.riding import START, batch_of, made
from tests.toy_training import toy_config, weights

CONFIG = toy_config()
DIGEST = "d" * 64


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def trained() -> tuple[Method[Any], torch.optim.Optimizer]:
    method = fresh_method(CONFIG)
    optimizer = build_optimizer(method, CONFIG.optim)
    loss = method.embed(torch.randn(4, 1, 16, 16)).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return method, optimizer


def save(directory: Path, step: int = 3, **metrics: float) -> tuple[Any, Any]:
    directory.mkdir(parents=True)
    method, optimizer = trained()
    info = CheckpointInfo(step, 1, 2, DIGEST, CONFIG.model_dump(mode="json"), dict(metrics))
    write_checkpoint(directory, info, method, optimizer, scaler())
    return method, optimizer


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    method, optimizer = save(tmp_path / "one")
    checkpoint = Checkpoint(tmp_path / "one", DIGEST)
    other = fresh_method(CONFIG)
    fresh = build_optimizer(other, CONFIG.optim)
    checkpoint.restore_model(other)
    checkpoint.restore_training(other, fresh, scaler())
    torch.testing.assert_close(weights(other), weights(method), rtol=0, atol=0)
    for old, new in zip(method.parameters(), other.parameters(), strict=True):
        for name, value in optimizer.state[old].items():
            assert torch.equal(fresh.state[new][name], value)
    assert (checkpoint.info.step, checkpoint.info.world_size) == (3, 2)


def full(path: Path) -> None:
    path.symlink_to("/dev/full")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [(MODEL, Path.mkdir), (STATE, full)],  # safetensors renames, which a link would not stop
)
def test_a_temporary_directory_that_takes_no_file_is_named(
    tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / name)
    method, optimizer = trained()
    info = CheckpointInfo(3, 1, 2, DIGEST, CONFIG.model_dump(mode="json"))
    with pytest.raises(StorageError, match=r"temporary directory: .*variable TMPDIR") as caught:
        write_checkpoint(tmp_path, info, method, optimizer, scaler())
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(cut, "bytes, its manifest says"), (flip, "checksum is wrong"), (Path.unlink, "is missing")],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, file: str, damage: Callable[[Path], None], words: str
) -> None:
    save(tmp_path / "one")
    damage(tmp_path / "one" / file)
    with pytest.raises(CheckpointError, match=f"one.*{file}.*{words}|one.*{words}") as caught:
        Checkpoint(tmp_path / "one", DIGEST)
    assert "delete the directory checkpoints" in str(caught.value)


def test_a_half_uploaded_directory_is_refused_and_not_listed(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "step-3")
    save(tmp_path / "checkpoints" / "step-4", step=4)
    (tmp_path / "checkpoints" / "step-4" / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match=r"no readable checkpoint\.json"):
        Checkpoint(tmp_path / "checkpoints" / "step-4")
    assert write_pointers(Location.parse(tmp_path))["last"].step == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', '{"format": 1, "colour": 2}'])
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path / "one")
    (tmp_path / "one" / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not one of ours"):
        Checkpoint(tmp_path / "one")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "one")
    manifest = tmp_path / "one" / "checkpoint.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(CheckpointError, match="checkpoint format 2, this program reads 1"):
        Checkpoint(tmp_path / "one")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "one")
    with pytest.raises(CheckpointError, match="made with other settings, data or seed"):
        Checkpoint(tmp_path / "one", "e" * 64)


def test_another_architecture_names_the_first_keys_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "one")
    other = fresh_method(toy_config(method__classes=5))
    with pytest.raises(CheckpointError, match=r"center has shape \(12,\), here \(5,\)") as caught:
        Checkpoint(tmp_path / "one").restore_model(other)
    assert "and 2 more" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"or set init: \{restore: backbone\} to take over"):
        Checkpoint(tmp_path / "one").restore_method(other)
    deeper = fresh_method(toy_config(backbone__depth=3))
    with pytest.raises(CheckpointError, match=r"blocks\.2.* is missing in it"):
        Checkpoint(tmp_path / "one").restore_model(deeper)


def test_best_is_by_validation_and_last_by_step(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    scores = {1: {SCORE: 0.5}, 2: {SCORE: 0.75}, 3: {SCORE: 0.75}, 4: {}}
    for step, metrics in scores.items():
        save(tmp_path / "checkpoints" / f"step-{step}", step, **metrics)
    pointers = write_pointers(out)
    assert (pointers["best"].step, pointers["last"].step) == (2, 4)


def test_a_loaded_model_is_the_trained_one_with_its_settings(tmp_path: Path) -> None:
    method, _ = save(tmp_path / "checkpoints" / "step-3")
    out = Location.parse(tmp_path)
    write_pointers(out)
    loaded = load_model(out, "best")
    torch.testing.assert_close(weights(loaded.method), weights(method), rtol=0, atol=0)
    assert loaded.images == CONFIG.images
    assert loaded.config == CONFIG == trained_config(out)
    assert not loaded.method.training


def test_a_stage_that_did_not_finish_has_no_model(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "step-3")
    with pytest.raises(CheckpointError, match=r"no finished train stage \(best\.json is missing\)"):
        load_model(Location.parse(tmp_path))


RIDING: dict[str, dict[str, Any]] = {
    "mixed": {"batchformer": {"heads": 2}},
    "narrow": {"drloc": {"hidden": 8, "schedule": "constant"}},
    "wide": {"drloc": {"hidden": 16, "schedule": "constant"}},
}
RIDING["both"] = {**RIDING["mixed"], **RIDING["narrow"]}


def stepped(additions: str, method: str = "supervised") -> tuple[Any, Any]:
    """A small method with additions, and its optimizer, after a step."""
    tree: Any = {"supervised": {"classes": 3}, "moco": {"head": {"hidden": 16, "output": 8}}}[
        method
    ]
    made_one = made({"name": method, **tree}, RIDING.get(additions, {}))
    optimizer = build_optimizer(made_one, CONFIG.optim)
    made_one.begin_step(START)
    made_one(batch_of(made_one)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return made_one, optimizer


@pytest.mark.parametrize(
    ("before", "after", "kept", "fresh"),
    [
        ("mixed", "both", "additions.batchformer.", "additions.drloc."),
        ("both", "mixed", "additions.batchformer.", ""),
        ("narrow", "wide", "backbone.", "additions.drloc."),
        ("none", "wide", "backbone.", "additions.drloc."),
    ],
)
def test_each_addition_goes_on_or_starts_afresh(
    before: str, after: str, kept: str, fresh: str, tmp_path: Path
) -> None:
    method, optimizer = stepped(before)
    info = CheckpointInfo(3, 1, 1, DIGEST, CONFIG.model_dump(mode="json"))
    write_checkpoint(tmp_path, info, method, optimizer, scaler())
    later, own = stepped(after)
    untouched = {key: value.clone() for key, value in later.state_dict().items()}
    own = build_optimizer(later, CONFIG.optim)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.restore_training(later, own, scaler(), checkpoint.restore_method(later))
    for name, value in later.state_dict().items():
        if name.startswith(kept):
            assert torch.equal(value, method.state_dict()[name])
        if fresh and name.startswith(fresh):
            assert torch.equal(value, untouched[name])
    for name, parameter in later.named_parameters():
        if fresh and name.startswith(fresh):
            assert not own.state[parameter]
        elif name.startswith(kept) and parameter.requires_grad:
            assert own.state[parameter]
    later(batch_of(later)).loss.backward()
    own.step()  # no moments of another shape


@pytest.mark.parametrize(("before", "after"), [("none", "mixed"), ("mixed", "none")])
def test_the_slow_copy_of_an_addition_may_come_and_go(
    before: str, after: str, tmp_path: Path
) -> None:
    method, optimizer = stepped(before, "moco")
    info = CheckpointInfo(3, 1, 1, DIGEST, CONFIG.model_dump(mode="json"))
    write_checkpoint(tmp_path, info, method, optimizer, scaler())
    later, _ = stepped(after, "moco")
    assert Checkpoint(tmp_path).restore_method(later) == {"batchformer"}
    torch.testing.assert_close(
        later.teacher_backbone.state_dict(), method.teacher_backbone.state_dict()
    )


def test_a_slow_copy_starts_where_the_backbone_does(tmp_path: Path) -> None:
    method, optimizer = stepped("none")
    info = CheckpointInfo(3, 1, 1, DIGEST, CONFIG.model_dump(mode="json"))
    write_checkpoint(tmp_path, info, method, optimizer, scaler())
    later, _ = stepped("none", "moco")
    Checkpoint(tmp_path).restore_backbone(later)
    for network in (later.backbone, later.teacher_backbone):
        own = method.backbone.state_dict()
        torch.testing.assert_close(
            network.state_dict(), {key: own[key] for key in network.state_dict()}
        )


def test_balanced_softmax_counts_are_those_of_this_stage(tmp_path: Path) -> None:
    counts = {"many": (100, 100, 100), "tail": (100, 10, 1)}
    settings = {"name": "supervised", "classes": 3, "balanced": True}
    before = made({**settings, "class_counts": counts["many"]}, {})
    info = CheckpointInfo(3, 1, 1, DIGEST, CONFIG.model_dump(mode="json"))
    write_checkpoint(tmp_path, info, before, build_optimizer(before, CONFIG.optim), scaler())
    later: Any = made({**settings, "class_counts": counts["tail"]}, {})
    Checkpoint(tmp_path).restore_method(later)
    torch.testing.assert_close(later.log_counts.exp(), torch.tensor([100.0, 10.0, 1.0]))
