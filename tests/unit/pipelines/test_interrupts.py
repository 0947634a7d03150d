"""Ctrl-C under a handler that is not ours."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread

import pytest

from pipelines.interrupts import interruptible


def leave() -> None:
    sys.exit(0)


def fail() -> None:
    raise ValueError("the controller is gone")


def stay() -> None:
    pass


def press(handler: Callable[[], None]) -> None:
    """Press Ctrl-C under a handler, as Ray puts in its own."""
    signal.signal(signal.SIGINT, lambda *_: handler())
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("handler", [leave, fail, stay])
def test_whatever_a_foreign_handler_does_it_is_an_interruption(
    handler: Callable[[], None],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        press(handler)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_it_an_error_stays_what_it_is() -> None:
    with pytest.raises(SystemExit), interruptible():
        leave()
    with pytest.raises(ValueError, match="gone"), interruptible():
        fail()
    with interruptible():
        stay()


def test_other_threads_have_no_handlers_to_mind() -> None:
    passed: list[bool] = []

    def block() -> None:
        with interruptible():
            passed.append(True)

    thread = Thread(target=block)
    thread.start()
    thread.join()
    assert passed == [True]
