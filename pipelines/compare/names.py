"""Short, unique names: of run, stage label, protocol and seed only what tells methods apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePosixPath

from pipelines.compare.answers import Answers
from pipelines.protocols import OWN

SEED_ENDING = re.compile(r"[-_. ]+(seed|s|run)?[-_.= ]*\d*$")


def named(groups: Sequence[Sequence[Answers]]) -> list[str]:
    """Return a name for each group, a group being the answers of one method (several seeds).

    The run's name is there when several runs are compared, the stage's label when its run has
    several models, the protocol when several are compared, the seed when groups differ in it.
    """
    several_runs = len({_run(group, 1) for group in groups if group[0].trained}) > 1
    protocols = {group[0].protocol for group in groups}
    models: dict[str, set[str]] = {}
    for group in groups:
        models.setdefault(_run(group, 1), set()).add(group[0].model)
        models[_run(group, 1)] -= {model.model for model in group if not model.trained}
    names = []
    for group in groups:
        run, model = _run(group, 1), group[0].model
        parts = [run] if several_runs and group[0].trained else []
        if not parts or (len(models[run]) > 1 and model != run):
            parts.append(model)
        if len(protocols) > 1 and group[0].protocol != OWN:
            parts.append(f"({group[0].protocol})")
        names.append(" ".join(parts))
    return _unique(names, groups)


def _unique(names: list[str], groups: Sequence[Sequence[Answers]]) -> list[str]:
    """Return the names with more parts where several are equal."""
    further: list[Callable[[Sequence[Answers]], str]] = [
        lambda group: f"seed {group[0].seed}" if group[0].seed is not None else "",
        lambda group: _run(group, 1),
        lambda group: group[0].model,
        lambda group: group[0].evaluation,
        lambda group: _run(group, 2).removesuffix("/" + _run(group, 1)),
        lambda group: _run(group, 3),
        lambda group: group[0].place.name,
        lambda group: group[0].weights[:6],
    ]
    for part in further:
        counts = Counter(names)
        for name in [name for name, count in counts.items() if count > 1]:
            places = [i for i, other in enumerate(names) if other == name]
            parts = [part(groups[i]) for i in places]
            if len(set(parts)) > 1:
                for place, words in zip(places, parts, strict=True):
                    names[place] = f"{name} {words}".strip()
    numbers: Counter[str] = Counter()
    repeated: Mapping[str, int] = Counter(names)
    for i, name in enumerate(names):
        numbers[name] += 1
        names[i] = f"{name} #{numbers[name]}" if repeated[name] > 1 else name
    return names


def _run(group: Sequence[Answers], parts: int) -> str:
    """Return the last parts of the runs' paths, or what those of several seeds share."""
    paths = ["/".join(PurePosixPath(item.run.path).parts[-parts:]) for item in group]
    unique = list(dict.fromkeys(paths))
    if len(unique) == 1:
        return unique[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*unique, strict=False))
    shared = "".join(letters[0] for letters in same)
    return SEED_ENDING.sub("", shared) or unique[0]
