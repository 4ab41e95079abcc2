"""Storage of the lake's files: a local folder, synced to disk, or object storage, behind one small interface."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vitalake.causes import unavailable
from vitalake.errors import SettingsError
from vitalake.folders import sync_folder
from vitalake.lake.tables.digests import check, damaged, digest_of, named
from vitalake.modes import keep_private

_S3_OPTIONS = {
    "AWS_ACCESS_KEY_ID": "access_key",
    "AWS_SECRET_ACCESS_KEY": "secret_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_REGION": "region",
    "AWS_ENDPOINT_URL": "endpoint_override",
}
"""delta-rs' names of the options → pyarrow's."""

_LOOKS = 5
"""How often a folder is listed before a missing subfolder counts as an error."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder or a prefix of a bucket.

    Attributes:
        uri: the address, as delta-rs takes it.
        options: the storage options, as delta-rs takes them.
        root: the same address as a path of ``fs``.
        local: whether it is a local folder, whose files this class must sync.
        name: the path below the lake's root, for messages.
    """

    uri: str
    options: dict[str, str] = field(repr=False)
    fs: Any = field(repr=False)
    root: str
    local: bool
    name: str = ""

    def child(self, name: str) -> Storage:
        """Return the storage of a subfolder."""
        return Storage(
            f"{self.uri}/{name}",
            self.options,
            self.fs,
            f"{self.root}/{name}",
            self.local,
            f"{self.name}/{name}".strip("/"),
        )

    def write_parquet(self, stem: str, table: pa.Table, *, suffix: str = "", **options: Any) -> tuple[str, int]:
        """Write a Parquet file, synced to disk, and return its path and its size in bytes.

        It is encoded in memory first, because its digest stands in its name and object storage cannot rename.

        Args:
            stem: beginning of its path.
            table: the rows.
            suffix: suffix of the name; see buckets.py.
            options: options of Arrow's writer.

        Raises:
            OSError: no space, no permission, no connection. A half-written file is left for the sweeper.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, write_page_checksum=True, **options)
        content = sink.getvalue()
        relative = named(stem, digest_of(content), suffix)
        self.write_small(relative, content)
        return relative, content.size

    def write_small(self, relative: str, content: Any) -> None:
        """Write content to a file: completely or not at all, and synced to disk.

        Raises:
            OSError: as ``write_parquet``.
        """
        if not self.local:
            with self.fs.open_output_stream(f"{self.root}/{relative}") as sink:
                sink.write(content)
            return
        target = Path(self.root, relative)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(target.parent.parent)
        # Renamed when complete: a span's row that is written again after a lost reply may already be in the table, so
        # the file must never be half written, not even for a moment.
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        with part.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
        sync_folder(target.parent)

    def read_parquet(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """Return a Parquet file's rows, with those of the requested columns that it has.

        Raises:
            Damaged, OSError: as ``open``.
        """
        with self.open(relative) as file:  # half the time of read_table, which builds a dataset first
            table = file.read(columns)
        return table.select([name for name in columns if name in table.schema.names]) if columns else table

    def read_small(self, relative: str) -> bytes | None:
        """Return the content of a small file; None: there is none.

        Raises:
            LakeError, ServiceUnavailable: it cannot be read.
            OSError: object storage cannot be reached.
        """
        if self.local:
            return self._read_small_file(relative)
        try:
            with self.fs.open_input_file(f"{self.root}/{relative}") as source:
                return bytes(source.read())
        except (FileNotFoundError, NotADirectoryError):  # there is no lake yet, or a part of its path is a file
            return None

    def _read_small_file(self, relative: str) -> bytes | None:
        try:
            return Path(self.root, relative).read_bytes()
        except (FileNotFoundError, NotADirectoryError):  # there is no lake yet, or a part of its path is a file
            return None
        except OSError as error:
            raise unavailable(
                error,
                "A file of the lake cannot be read",
                where=f"{self.name}/{relative}".strip("/"),
                remedy="Check its permissions and disk.",
            ) from None

    def open(self, relative: str, **options: Any) -> pq.ParquetFile:
        """Open a Parquet file, after checking that it holds what was written to it.

        Raises:
            Damaged: it holds something else.
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        source = self.open_input(relative)
        try:
            return pq.ParquetFile(source, page_checksum_verification=True, **options)
        except pa.ArrowException:  # an older file, without a digest
            raise damaged(self, relative) from None

    def open_input(self, relative: str) -> pa.NativeFile:
        """Open a file, after checking that it holds what was written to it.

        Raises:
            Damaged, OSError: as ``open``.
        """
        check(self, relative)
        return self.fs.open_input_file(f"{self.root}/{relative}")

    def files(self, suffix: str = ".parquet") -> dict[str, float]:
        """Return all files below, except logs and records: path → time of the last change, in seconds since 1970."""
        times = {}
        for info in self._listed():
            relative = info.path[len(self.root) + 1 :]
            if info.type == pafs.FileType.File and relative.endswith(suffix) and not relative.startswith("_"):
                times[relative] = info.mtime.timestamp() if info.mtime else 0.0
        return times

    def _listed(self) -> Any:
        selector = pafs.FileSelector(self.root, recursive=True, allow_not_found=True)
        for _ in range(_LOOKS - 1):
            with suppress(FileNotFoundError):  # another process made a folder while Arrow was listing
                return self.fs.get_file_info(selector)
        return self.fs.get_file_info(selector)

    def exists(self, relative: str) -> bool:
        """Return whether the file exists."""
        return bool(self.fs.get_file_info(f"{self.root}/{relative}").type == pafs.FileType.File)

    def holds_table(self, name: str) -> bool:
        """Return whether there is a Delta table; for readers, which must not create one."""
        log = f"{self.root}/{name}/_delta_log"
        if self.local:
            with suppress(OSError), os.scandir(log) as entries:
                if next(entries, None):
                    return True
        elif self.fs.get_file_info(log).type == pafs.FileType.Directory:
            return True
        return bool(self.child(name).files())  # files without a log: opening the table reports that the log is lost

    def tables_in(self, zone: str) -> list[str]:
        """Return the names of a zone's folders that hold a Delta log, declared or not."""
        selector = pafs.FileSelector(f"{self.root}/{zone}", allow_not_found=True)
        folders = [info.base_name for info in self.fs.get_file_info(selector) if info.type == pafs.FileType.Directory]
        return sorted(
            name
            for name in folders
            if self.fs.get_file_info(f"{self.root}/{zone}/{name}/_delta_log").type == pafs.FileType.Directory
        )

    def delete(self, relative: str) -> None:
        """Delete a file; does nothing if it does not exist."""
        try:
            self.fs.delete_file(f"{self.root}/{relative}")
        except FileNotFoundError:
            return


def open_storage(uri: str, options: dict[str, str]) -> Storage:
    """Return the storage of an address.

    Raises:
        SettingsError: the scheme of the address is unknown.
    """
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        root = str(Path(parsed.path).absolute())
        keep_private()  # delta-rs creates its files with the process' umask
        return Storage(root, dict(options), pafs.LocalFileSystem(), root, local=True)
    if parsed.scheme == "s3":
        arguments = {arrow: options[delta] for delta, arrow in _S3_OPTIONS.items() if delta in options}
        if options.get("AWS_ENDPOINT_URL", "").startswith("http:"):
            arguments["scheme"] = "http"
        return Storage(
            uri, dict(options), pafs.S3FileSystem(**arguments), f"{parsed.netloc}{parsed.path}".rstrip("/"), local=False
        )
    raise SettingsError(
        "Lake address has an unknown scheme", where="lake.uri", remedy="Use a folder or s3://bucket/path."
    )
