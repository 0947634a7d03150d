"""A file or directory on any storage: local disk, S3, whatever pyarrow's filesystems reach.

Everything that reads or writes a result goes through a `Location`, so one test covers a laptop and
a bucket. Writing a small file is atomic: readers see the old bytes or the new ones.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from fsl.errors import ConfigError, StorageError


@dataclass(frozen=True)
class Location:
    """A path on a pyarrow filesystem.

    Attributes:
        filesystem: where the path is.
        path: absolute path, or `bucket/key`.
        scheme: "" for local files, else the scheme of the URI it was made from.
        query: options of that URI (region, endpoint_override), so that `str` can be parsed again.
    """

    filesystem: fs.FileSystem = field(hash=False)
    path: str
    scheme: str = ""
    query: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str | Path) -> Location:
        """Return the location of a local path or of a URI (`s3://bucket/runs?region=...`)."""
        if isinstance(text, Path) or "://" not in text:
            return cls(fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        parts = urlsplit(text)
        if parts.scheme == "file":
            return cls.parse(Path(unquote(parts.path)))
        query = _with_region(parts.query) if parts.scheme == "s3" else parts.query
        try:
            filesystem, path = fs.FileSystem.from_uri(urlunsplit(parts._replace(query=query)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            secret = parts.netloc.rpartition("@")[0] + "@"  # a bare "@" when there is none
            message = f"{text}: not a usable address: {_first_line(error)}"
            raise ConfigError(message.replace(secret, "")) from None
        return cls(filesystem, path.rstrip("/"), parts.scheme, parts.query)

    def __truediv__(self, name: str) -> Location:
        """Return the location of `name` below this one."""
        joined = str(PurePosixPath(self.path) / name)
        return Location(self.filesystem, joined, self.scheme, self.query)

    def __str__(self) -> str:
        """Return the path, or the URI without credentials; `parse` reads it back."""
        if not self.scheme:
            return self.path
        path = quote(self.path, safe="/=+,:")
        return f"{self.scheme}://{path}" + (f"?{self.query}" if self.query else "")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Location:
        """The directory above."""
        above = str(PurePosixPath(self.path).parent)
        return Location(self.filesystem, above, self.scheme, self.query)

    @property
    def local(self) -> Path | None:
        """The path on this machine's disk, or None on another storage."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def exists(self) -> bool:
        """Return whether a file or directory is here."""
        return bool(self._info("looked up").type != fs.FileType.NotFound)

    def is_dir(self) -> bool:
        """Return whether a directory is here."""
        return bool(self._info("looked up").type == fs.FileType.Directory)

    def size(self) -> int:
        """Return the bytes of the file here."""
        info = self._info("read")
        if info.type != fs.FileType.File:
            raise StorageError(f"{self}: no such file")
        return int(info.size)

    def list(self) -> list[Location]:
        """Return what the directory holds, sorted by name."""
        with self._explained("listed"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path))
        paths = sorted(str(info.path) for info in found)
        return [Location(self.filesystem, path, self.scheme, self.query) for path in paths]

    def open_input(self) -> pa.NativeFile:
        """Return the file, opened for reading at any position."""
        with self._explained("read"):
            return self.filesystem.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        """Return the whole file."""
        with self._explained("read"), self.filesystem.open_input_file(self.path) as stream:
            return bytes(stream.read())

    def read_text(self) -> str:
        """Return the whole file as UTF-8 text."""
        try:
            return self.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise StorageError(f"{self}: not UTF-8 text: {error}") from None

    def write_bytes(self, content: bytes) -> None:
        """Write the whole file; a reader never sees a part of it."""
        with self._explained("written"):
            if self.local is not None:
                _write_and_rename(self.local, content)
            else:  # an object becomes visible when its upload completes
                with self.filesystem.open_output_stream(self.path) as stream:
                    stream.write(content)

    def write_text(self, text: str) -> None:
        """Write the whole file as UTF-8 text, atomically."""
        self.write_bytes(text.encode())

    def make_dir(self) -> None:
        """Make the directory and those above it; on object stores there is nothing to make."""
        if self.local is not None:
            with self._explained("made"):
                self.local.mkdir(parents=True, exist_ok=True)

    def delete(self) -> None:
        """Delete the file, or the directory with all it holds; nothing there is no fault."""
        kind = self._info("deleted").type
        with self._explained("deleted"):
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind != fs.FileType.NotFound:
                self.filesystem.delete_file(self.path)

    def upload(self, source: Path) -> None:
        """Copy a local file to here, or the files below a local directory to below here."""
        with self._explained("written"):
            if not source.is_dir() and self.local is not None:
                _copy_and_rename(source, self.local)
                return
            if self.local is not None:
                self.local.mkdir(parents=True, exist_ok=True)
            start = str(source.absolute())
            fs.copy_files(start, self.path, fs.LocalFileSystem(), self.filesystem)

    def download(self, to: Path) -> None:
        """Copy the file here to the local file `to`, or the files below here to below `to`."""
        with self._explained("read"):
            to.parent.mkdir(parents=True, exist_ok=True)
            if self.is_dir():
                to.mkdir(exist_ok=True)
                target, rename = to, False
            else:
                target, rename = to.with_name(f".{to.name}.{os.getpid()}"), True
            fs.copy_files(self.path, str(target.absolute()), self.filesystem, fs.LocalFileSystem())
            if rename:
                target.replace(to)

    def _info(self, verb: str) -> fs.FileInfo:
        with self._explained(verb):
            return self.filesystem.get_file_info(self.path)

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn what the storage raises into one message that names the place and the reason."""
        try:
            yield
        except StorageError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self}: cannot be {verb}: {_reason(error)}") from error


def _with_region(query: str) -> str:
    """Return the URI options with a region: without one pyarrow asks Amazon's servers for it."""
    options = dict(parse_qsl(query))
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    own_server = "endpoint_override" in options or "AWS_ENDPOINT_URL" in os.environ
    if "region" not in options and (region or own_server):
        options["region"] = region or "us-east-1"
    return urlencode(options)


def _write_and_rename(path: Path, content: bytes) -> None:
    with _replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _copy_and_rename(source: Path, path: Path) -> None:
    with _replacing(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a new name beside `path`; move it there if all went well, else delete it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or _first_line(error)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())
