"""Errors keep class and message on their way from one process to another."""

from __future__ import annotations

import pickle

import pytest

from fsl.errors import FewShotError, ShardError, StorageError, UnknownNameError


@pytest.mark.parametrize(
    "error",
    [
        ShardError("train-0003.tar: cut short; write it again"),
        StorageError("s3://bucket/x: not readable"),
        UnknownNameError("method", "protonett", ["protonet"]),
    ],
)
def test_an_error_can_be_sent_to_another_process(error: FewShotError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
