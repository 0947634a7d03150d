"""Ctrl-C while Ray has put in its own handler.

That one ends the training, and then the process, or lets the call return as if it were done.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """End the block with KeyboardInterrupt after Ctrl-C, whatever handler came in between.

    The handler from before is put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except BaseException as error:
            if _pressed(reader):
                raise KeyboardInterrupt from error
            raise
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGINT, handler)
        if _pressed(reader):
            raise KeyboardInterrupt


def _pressed(reader: socket.socket) -> bool:
    try:
        return signal.SIGINT in reader.recv(4096)  # a byte for each signal that came
    except BlockingIOError:
        return False
