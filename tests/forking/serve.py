"""The server of forks: imports, then forks for everybody who asks; it never starts a thread, nor runs a command itself.

A fork has the asker's environment, folder, mask and first three descriptors. When the asker goes, its fork is killed;
when our standard input closes, we end.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from models.registry import tracking
from vitalake import plugins

_COMMAND = (
    *("vitalake.cli.app", "vitalake.command", "governance.commands.sql", "governance.keyuse"),
    *("governance.query.restricted", "pipelines.commands.dead_letters", "pipelines.commands.devices"),
    *("pipelines.commands.patient", "pipelines.erasure.request", "pipelines.formats.registry"),
    *("pipelines.formats.fhir.observations", "pipelines.intake.personal", "pipelines.reprocess.dead_letters"),
    *("pipelines.reconcile.reconciler", "pipelines.republish.republish", "models.serving.personal", "duckdb"),
    *("confluent_kafka.admin", "psycopg", "governance.keyservice.local", "governance.vault.erasure_log"),
)

_TRAINING = (
    *("models.commands.train", "models.training.train", "mlflow.store.tracking.sqlalchemy_store", "mlflow.artifacts"),
    *("sklearn.linear_model", "scipy.stats", "xgboost"),
)

KINDS = {
    "command": _COMMAND,
    "sandbox": ("governance.query.worker", "duckdb", "pyarrow", "pyarrow.ipc"),
    "worker": ("apache_beam", "pipelines.live.worker", "pipelines.attribution.attributor"),
    "history": (
        *_COMMAND,
        "great_expectations",
        "pipelines.history.load",
        "adbc_driver_duckdb.dbapi",
        "pandas",
        *_TRAINING,
    ),
}
"""What each kind of server has imported."""


@dataclass(slots=True)
class Job:
    """What is asked for."""

    folder: str
    mask: int
    module: str
    arguments: list[str]
    environment: dict[str, str]
    descriptors: list[int]


def _receive(asker: socket.socket) -> Job:
    head, descriptors, _, _ = socket.recv_fds(asker, 8, 3)
    left, content = int.from_bytes(head, "big"), b""
    while len(content) < left:
        content += asker.recv(left - len(content))
    folder, mask, count, *rest = content.decode("utf-8", "surrogateescape").split("\0")
    module, *arguments = rest[: int(count)]
    pairs = iter(rest[int(count) :])
    return Job(folder, int(mask), module, arguments, dict(zip(pairs, pairs, strict=True)), list(descriptors))


def serve(listener: socket.socket) -> Job:
    """Fork for everybody who asks; return in a fork, with what it has to do."""
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    forks: dict[int, tuple[int, socket.socket]] = {}  # descriptor of a process → its id, and who asked
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                asker, _ = listener.accept()
                job = _receive(asker)
                if (pid := os.fork()) == 0:
                    waiting.close()
                    for descriptor, (_, other) in forks.items():
                        os.close(descriptor)
                        other.close()
                    asker.close()
                    listener.close()
                    return job
                for descriptor in job.descriptors:
                    os.close(descriptor)
                asker.sendall(pid.to_bytes(8, "big", signed=True))
                handle = os.pidfd_open(pid)
                forks[handle] = (pid, asker)
                waiting.register(handle, selectors.EVENT_READ)
                waiting.register(asker, selectors.EVENT_READ, handle)
            elif key.fileobj == 0:
                for pid, _ in forks.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.data is not None:  # the asker is gone
                if key.data in forks:
                    os.kill(forks[key.data][0], signal.SIGKILL)
                waiting.unregister(key.fileobj)
            else:
                pid, asker = forks.pop(key.fd)
                waiting.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if asker in waiting.get_map():
                    waiting.unregister(asker)
                with suppress(OSError):  # gone as well
                    asker.sendall(code.to_bytes(8, "big", signed=True))
                asker.close()


def _become(job: Job) -> None:
    for target, descriptor in enumerate(job.descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(job.environment)
    os.umask(job.mask)
    os.chdir(job.folder)


def main() -> None:
    """Serve; in a fork run what was asked for."""
    path, kind = sys.argv[1:]
    os.environ.update(tracking._QUIET)
    for name in KINDS[kind]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # forks share what nobody changes
    assert threading.active_count() == 1, "a fork would lack the other threads"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        job = serve(listener)
    _become(job)
    sys.argv[1:] = job.arguments
    sys.path[0] = job.folder
    if more := job.environment.get("PYTHONPATH"):
        sys.path[1:1] = [path for path in more.split(os.pathsep) if path not in sys.path]
        plugins._installed.cache_clear()
    code: object = 0
    try:
        runpy.run_module(job.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: object) -> NoReturn:
    """End as Python does, but for taking every module that was imported apart, which takes as long as the imports."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
