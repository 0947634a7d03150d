"""What an evaluation says of differences: judged together, and never more than is known."""

import torch

from fsl.evaluation import EpisodeScores
from pipelines.accuracies import Scored, Setting, differences

QUERIES = 15


def models(count: int, tasks: int, classes: int, seed: int, gain: float = 0.0) -> list[Scored]:
    """Models that are right by chance .6, the last one by `gain` more often, 5-way."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(tasks, classes, generator=generator).argsort(-1)[:, :5]
    queries = torch.full((tasks, 5), QUERIES)
    found = []
    for number in range(count):
        chance = torch.tensor(0.6 + gain * (number == count - 1))
        right = torch.rand(tasks, 5, QUERIES, generator=generator) < chance
        scores = EpisodeScores(right.sum(-1), queries)
        found.append(Scored(f"model {number}", Setting("prototype", 5, 1), scores, members))
    return found


def test_with_many_equal_models_one_is_called_better_in_one_of_twenty_stages() -> None:
    stages = [differences(models(9, 50, 20, seed)) for seed in range(100)]
    wrong = sum(any(entry["real"] for entry in entries) for entries in stages)
    assert wrong <= 11  # each alone at 5 % it would be about 30


def test_few_tasks_prove_little() -> None:
    wrong = 0
    for seed in range(200):
        (entry,) = differences(models(2, 3, 20, seed))
        wrong += entry["real"]
        assert ("no real difference" in entry["words"]) is not entry["real"]
    assert wrong <= 20  # with 1.96 for Student's 4.3 it would be about 40


def test_a_clear_difference_is_found_among_many() -> None:
    *_, last = differences(models(9, 400, 20, 0, gain=0.2))
    assert last["real"]
    assert last["words"].startswith("model 8 is better than model 7 by ")


def test_what_is_not_real_here_is_not_real_over_other_classes() -> None:
    for seed in range(300):
        for entry in differences(models(2, 30, 5, seed)):
            assert entry["class_at_most"]
            assert entry["real"] or not entry["real_across_classes"]
            assert entry["class_half_width"] >= entry["half_width"] * 0.9  # 1.96 against Student's
