"""Permutations of 0..n-1 that are functions, not arrays: nothing is stored, any entry is computed.

A Feistel network on pairs (left, right) of a x b >= n is a bijection whatever its round function;
with a and b near the square root of n hardly any value falls outside n, and those that do are
walked through the network again (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). The round function is the finaliser of splitmix64 (Steele, Lea, Flood;
OOPSLA 2014). All is vectorised over entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10  # halves changed in turn
NARROWEST = 4  # size of a half; measured: with 2 some orders of 5 or 6 entries are likelier
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


def mix(values: U64) -> U64:
    """Return the splitmix64 finaliser of each value: every input bit moves every output bit."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_key(*parts: int) -> int:
    """Return a 64-bit hash of a sequence of integers; order and length count."""
    state = GOLDEN * (len(parts) + 1) & MASK
    for part in parts:
        mixed = mix(np.array([(state ^ (part & MASK)) + GOLDEN & MASK], np.uint64))
        state = int(mixed[0])
    return state


def hash_with(key: int, values: NDArray[np.integer]) -> U64:
    """Return a 64-bit hash of each value under `key`."""
    return mix(mix(values.astype(np.uint64) + np.uint64(GOLDEN)) ^ np.uint64(key))


def permute(entries: NDArray[np.integer], count: int | I64, key: int | U64) -> I64:
    """Return where the permutation of 0..count-1 named by `key` sends each entry.

    Args:
        entries: (...,) numbers, each from 0 to its count - 1.
        count: size of the domain, one for all entries or one per entry (...,).
        key: 64-bit name of the permutation, one for all entries or one per entry (...,).
    """
    entries = np.asarray(entries)
    counts = np.broadcast_to(np.asarray(count, np.uint64), entries.shape).ravel()
    keys = np.broadcast_to(np.asarray(key, np.uint64), entries.shape).ravel()
    width = np.maximum(np.ceil(np.sqrt(counts)), NARROWEST).astype(np.uint64)
    height = np.maximum((counts + width - np.uint64(1)) // width, NARROWEST)
    result = _network(entries.astype(np.uint64).ravel(), width, height, keys)
    outside = np.flatnonzero(result >= counts)
    while outside.size:
        result[outside] = _network(result[outside], width[outside], height[outside], keys[outside])
        outside = outside[result[outside] >= counts[outside]]
    return result.astype(np.int64).reshape(entries.shape)


def _network(values: U64, width: U64, height: U64, keys: U64) -> U64:
    left, right = values // width, values % width
    for number in range(1, ROUNDS + 1):
        keys = keys + np.uint64(GOLDEN)
        if number % 2:
            left = (left + mix(right + keys)) % height
        else:
            right = (right + mix(left + keys)) % width
    return left * width + right
