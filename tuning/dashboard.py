"""The study in optuna-dashboard, read only, on this machine: a sweep may be running meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from data_shards.location import Location
from fsl.errors import ConfigError, StageError
from tuning.journal import JOURNAL
from tuning.store import read_study

HOST = "127.0.0.1"
NAMES = {HOST, "localhost"}
"""What a browser on this machine, or at the end of a tunnel, calls it; other names are refused, so
that no web page can read the study by a name of its own that points here."""
READING = {"GET", "HEAD"}
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def serve(root: Location, port: int = 8080) -> None:
    """Show a study in the browser until interrupted by Ctrl-C.

    Args:
        root: the study's directory, on this machine or in a bucket.
        port: where on this machine; 0 takes any that is free.

    Raises:
        ConfigError: no study is there, optuna-dashboard is missing, or the port is taken.
    """
    with make_dashboard(root, port) as server:
        print(f"{root}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def make_dashboard(root: Location, port: int = 8080) -> WSGIServer:
    """Return the server of `serve`, which answers once `serve_forever` is called.

    Raises:
        ConfigError: no study is there, optuna-dashboard is missing, or the port is taken.
    """
    read_study(root)
    if not (root / JOURNAL).exists():
        raise ConfigError(f"{root}: no trial has begun, there is nothing to show; run fewshot tune")
    try:
        from optuna_dashboard import wsgi  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "optuna-dashboard is not installed: pip install 'fewshot-ray[dashboard]'"
        ) from None
    app = guarded(wsgi(JournalStorage(ReadOnlyJournal(root / JOURNAL))))
    try:
        return make_server(HOST, port, app, _Server, _Handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}); choose another by --port"
        ) from None


class ReadOnlyJournal(BaseJournalBackend):
    """The journal of a study, on any storage; what is appended meanwhile is seen.

    Args:
        place: the file.
    """

    def __init__(self, place: Location) -> None:
        self.place = place

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from one number on; half a line at the end is not there yet."""
        content = self.place.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        yield from map(json.loads, lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Refuse.

        Raises:
            StageError: always.
        """
        raise StageError(f"{self.place}: only `fewshot tune` writes to it")


def guarded(app: App) -> App:
    """Return an application that only shows, and only to this machine."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
        refusal = ""
        if name not in NAMES:
            refusal = f"open http://{HOST}:{environ['SERVER_PORT']}/ instead\n"
        elif environ["REQUEST_METHOD"] not in READING:
            refusal = "the study is shown read only; `fewshot tune` alone changes it\n"
        if not refusal:
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [refusal.encode()]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""
