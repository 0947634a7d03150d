"""The faults that `test_bad_input.py` plants: what is done to a good world, and the words
that the message must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.integration.faulty_world import (
    World,
    attempt,
    edit,
    evaluate,
    evaluate_damaged,
    flip,
    image,
    raise_format,
    truncate,
    use_damaged,
    use_void,
)


class Fault(NamedTuple):
    """A fault and the words that the message must have."""

    name: str
    plant: Callable[[World], object]
    words: tuple[str, ...]


def setting(key: str, value: object, *words: str) -> Fault:
    """Return the fault of one wrong setting."""
    return Fault(f"{key}={value}", lambda world: world.set(key, value), words)


def recipe_text(name: str, text: str | bytes, *words: str) -> Fault:
    """Return the fault of a recipe that is not one."""
    data = text if isinstance(text, bytes) else text.encode()
    return Fault(name, lambda world: (world.root / "recipe.yaml").write_bytes(data), words)


def command(name: str, argv: str, *words: str) -> Fault:
    """Return the fault of a wrong command line."""
    return Fault(name, lambda world: setattr(world, "argv", argv.split()), words)


def evaluating(name: str, settings: dict[str, object], *words: str) -> Fault:
    """Return the fault of an evaluation of raw pixels with some wrong settings."""
    return Fault(f"evaluation {name}", lambda world: evaluate(world, settings), words)


CHECKPOINT = {
    "step": 6, "epoch": 2, "world_size": 1, "digest": "f" * 64, "config": {}, "format": 1,
}  # fmt: skip
TRAIN = "stages.pretrain"
SOURCE = "stages.shards.source"

RECIPES = [
    command("no such recipe", "run nothing.yaml", "nothing.yaml", "No such file"),
    command("recipe is a folder", "run images", "images", "Is a directory"),
    recipe_text("not UTF-8", b"stages: \xff\xfe", "recipe.yaml", "cannot be read"),
    recipe_text("invalid YAML", "stages: {a: [}", "recipe.yaml", "not valid YAML", "line 1"),
    recipe_text("key twice", "seed: 1\nseed: 2\nstages: {}", "'seed' is written twice", "line 2"),
    recipe_text("a list", "- a\n- b\n", "a recipe is a mapping"),
    recipe_text("empty file", "", "a recipe is a mapping", "None"),
    recipe_text("no stages", "seed: 1", "stages: this key is required"),
    recipe_text("empty stages", "stages: {}", "stages:", "at least 1"),
    recipe_text("stages a list", "stages: [train]", "stages:", "dictionary"),
    recipe_text("stage a word", "stages: {a: train}", "stages.a", "mapping with the key 'kind'"),
    recipe_text("label with a blank", "stages: {My Stage: {kind: train}}", "My Stage", "pattern"),
    recipe_text("python tag", "stages: !!python/name:os.system", "not valid YAML"),
    setting("sede", 1, "sede: unknown key; did you mean 'seed'?"),
    setting("seed", -1, "seed: Input should be greater than or equal to 0", "got -1"),
    setting(f"{TRAIN}.optim.epoch", 1, f"{TRAIN}.optim.epoch: unknown key", "'epochs'"),
    setting(f"{TRAIN}.kind", "trian", "unknown stage 'trian'; did you mean 'train'?"),
    setting("stages.extra", {"needs": []}, "the key 'kind' is missing; one of:", "train"),
    setting(f"{TRAIN}.method.name", "smdk", "unknown method 'smdk'; did you mean 'smkd'?"),
    setting(f"{TRAIN}.backbone.name", "conv44", "unknown backbone", "'conv4'"),
    setting(f"{SOURCE}.name", "foldr", "unknown source 'foldr'; did you mean 'folder'?"),
    setting(f"{SOURCE}.rooot", "x", f"{SOURCE}.rooot: unknown key; did you mean 'root'?"),
    setting(f"{TRAIN}.optim.epochs", "many", "optim.epochs", "valid integer", "'many'"),
    setting(f"{TRAIN}.optim.lr", -0.1, "optim.lr", "greater than 0"),
    setting(f"{TRAIN}.optim.lr", float("nan"), "optim.lr", "finite number"),
    setting(f"{TRAIN}.optim.min_lr", 1.0, "min_lr 1 is above lr"),
    setting(f"{TRAIN}.optim.warmup_epochs", 3, "warmup_epochs 3 exceeds epochs 2"),
    setting(f"{TRAIN}.data.order", {"name": "class_balanced"}, "needs images_per_class"),
    setting(f"{TRAIN}.cluster", {"workers": [3, 1]}, "workers: [3, 1] is [min, max]"),
    setting(f"{TRAIN}.cluster", {"workers": 9}, "batch_size", "shared by 9 workers"),
    setting(f"{TRAIN}.backbone", None, "backbone: missing"),
    setting(f"{TRAIN}.needs", ["shard"], "no stage 'shard'; did you mean 'shards'?"),
    setting(f"{TRAIN}.needs", [], "needs exactly one stage that gives shards", "write_shards"),
    setting(f"{TRAIN}.needs", ["shards", "shards"], "'shards' is listed twice"),
    setting(f"{TRAIN}.needs", ["shards", "pretrain"], "'pretrain' needs itself"),
    setting("stages.shards.needs", ["pretrain"], "in a circle: shards -> pretrain -> shards"),
    Fault(
        "needs of the wrong sort",
        lambda world: world.set("stages.more", {**world.stages["shards"], "needs": ["shards"]}),
        ("write_shards stage cannot use 'shards'", "it takes: nothing"),
    ),
    Fault(
        "needs a later stage",
        lambda world: world.set(
            "stages", {name: world.stages[name] for name in ("pretrain", "shards")}
        ),
        ("'shards' comes later in the recipe; write it above 'pretrain'",),
    ),
]

COMMANDS = [
    command("unknown command", "rum recipe.yaml", "unknown command 'rum'; did you mean 'run'?"),
    command("no command", "", "COMMAND"),
    command("no recipe", "run", "recipe"),
    command("unknown option", "run recipe.yaml --chek", "--chek"),
    command("override without =", "run recipe.yaml seed", "write it as section.key=value"),
    command("override not YAML", "run recipe.yaml seed=[1", "'[1' is not a YAML value"),
    command(
        "override of no stage",
        "run recipe.yaml stages.pretrian.seed=1",
        "no stage 'pretrian'; did you mean 'pretrain'?",
    ),
    command("override below a value", "run recipe.yaml seed.x=1", "seed:", "valid integer"),
    command("override of no key", "run recipe.yaml run_dri=x", "did you mean 'run_dir'?"),
    command("shards of no source", "shards write strks out", "did you mean 'strokes'?"),
    command("check of no shards", "shards check images", "no index.parquet"),
    command("unknown method", "methods smdk", "did you mean 'smkd'?"),
]

DATA = [
    setting(f"{SOURCE}.root", "nowhere", "nowhere", "No such file or directory"),
    Fault(
        "empty data folder",
        use_void,
        ("void", "holds no folders"),
    ),
    Fault(
        "a class in two splits",
        lambda world: image(world.root / "images/novel/ant/0.png", 99),
        ("class 'ant' is in 'base' and in 'novel'",),
    ),
    Fault(
        "a class without images",
        lambda world: (world.root / "images/base/yak").mkdir(),
        ("base/yak: no images",),
    ),
    Fault(
        "a folder that is no split",
        lambda world: image(world.root / "images/extra/yak/0.png", 99),
        ("folder 'extra' is none of base, val, novel",),
    ),
    Fault(
        "a truncated image",
        lambda world: truncate(world.root / "images/base/ant/0.png"),
        ("stage 'shards'", "base/ant/0.png: not a readable image"),
    ),
    Fault(
        "text called an image",
        lambda world: (world.root / "images/base/ant/9.png").write_text("hello"),
        ("base/ant/9.png: not a readable image",),
    ),
    Fault(
        "one image in two splits",
        lambda world: image(world.root / "images/novel/gnu/9.png", 0),
        ("the same image is in two splits", "novel/gnu/9.png"),
    ),
    setting("stages.shards", {"kind": "use_shards", "path": "images"}, "images: no index.parquet"),
    Fault(
        "an index cut off",
        lambda world: use_damaged(world, truncate),
        ("copy/index.parquet", "not a readable Parquet file"),
    ),
    Fault(
        "an index of another version",
        lambda world: use_damaged(world, raise_format),
        ("copy/index.parquet", "format version 7", "index the shards again"),
    ),
    setting(f"{TRAIN}.data.split", "bse", "no split 'bse'; did you mean 'base'?"),
    setting(f"{TRAIN}.data.batch_size", 500, "500", "24"),
    setting(f"{TRAIN}.validation.ways", 3, "validation.ways: 3 classes per task", "has 2"),
    setting(f"{TRAIN}.validation.queries", 6, "of which 0 have the 1 + 6 images"),
]

EVALUATION = [
    evaluating("without a model", {"baselines": []}, "nothing to evaluate", "baselines: [pixels]"),
    evaluating("with too many ways", {"ways": 3}, "ways: 3 classes per episode", "has 2"),
    evaluating("with too many shots", {"shots": [6]}, "of which 0 have the 7 images"),
    evaluating("on no split", {"split": "nvel"}, "no split 'nvel'; did you mean 'novel'?"),
    evaluating("with shots twice", {"shots": [1, 1]}, "evaluate.shots", "each entry once"),
    evaluating("by no protocol", {"protocols": ["prototyp"]}, "protocols.0", "'prototype'"),
    evaluating("with one task", {"tasks": 1}, "evaluate.tasks", "greater than or equal to 2"),
    Fault(
        "a truncated shard",
        lambda world: evaluate_damaged(world, truncate),
        ("stage 'evaluate'", "copy/novel/novel-000000.tar", "bytes"),
    ),
    Fault(
        "a shard with a flipped bit",
        lambda world: evaluate_damaged(world, flip),
        ("stage 'evaluate'", "novel/novel-000000.tar: sample '00000000'", "crc32", "copy"),
    ),
    Fault(
        "a shard that is gone",
        lambda world: evaluate_damaged(world, Path.unlink),
        ("stage 'evaluate'", "copy/novel/novel-000000.tar", "No such file"),
    ),
]

RUNS = [
    Fault(
        "an edited result",
        lambda world: edit(world.shards / "result.json", '"images": 48.0', '"images": 49.0'),
        ("result.json", "not what the stage wrote", "delete"),
    ),
    Fault(
        "a result cut off",
        lambda world: truncate(world.shards / "result.json"),
        ("result.json", "not valid JSON", "delete"),
    ),
    Fault(
        "an attempt with other settings",
        lambda world: attempt(world, "config.json", {"key": "0" * 64}),
        ("config.json: belongs to a stage with the key '000", "delete"),
    ),
    Fault(
        "an attempt without readable settings",
        lambda world: attempt(world, "config.json", None),
        ("config.json: not a JSON object", "delete"),
    ),
    Fault(
        "a foreign checkpoint",
        lambda world: attempt(world, "checkpoints/step_1/checkpoint.json", CHECKPOINT),
        ("stage 'pretrain'", "checkpoints/step_1: made with other settings, data or seed"),
    ),
    Fault(
        "a checkpoint of another version",
        lambda world: attempt(
            world, "checkpoints/step_1/checkpoint.json", {**CHECKPOINT, "format": 9}
        ),
        ("stage 'pretrain'", "checkpoint format 9, this program reads 1"),
    ),
    Fault(
        "a checkpoint cut off",
        lambda world: attempt(world, "checkpoints/step_1/checkpoint.json", None),
        ("stage 'pretrain'", "checkpoint.json is not one of ours"),
    ),
    setting("run_dir", "shards.yaml", "shards.yaml", "Not a directory"),
    setting("run_dir", "gopher://x/y", "gopher://x/y: not a usable address"),
    setting("run_dir", "", "run_dir", "name a directory or a URI"),
]


ALL = [*RECIPES, *COMMANDS, *DATA, *EVALUATION, *RUNS]
