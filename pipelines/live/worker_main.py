"""The command line of a worker process, which the supervisor starts; people use ``vitalake stream``."""

from __future__ import annotations

import argparse
import sys

from pipelines.core.kafka import Shard
from pipelines.live.lane import StreamOptions
from pipelines.live.lanes import LaneSpec
from pipelines.live.worker import run_worker
from vitalake.errors import VitaLakeError
from vitalake.processes import end_with_parent


def main() -> int:
    """Run the worker that the arguments describe; return its exit code."""
    supervised = end_with_parent()
    parser = argparse.ArgumentParser(prog="vitalake worker")
    parser.add_argument("config")
    parser.add_argument("job")
    parser.add_argument("shard", help="<i>of<n>")
    parser.add_argument("--from", dest="start", default="earliest")
    parser.add_argument("--accept-loss", action="store_true")
    parser.add_argument("--until-idle", type=float)
    given = parser.parse_args()
    index, _, of = given.shard.partition("of")
    start = int(given.start) if given.start.isdigit() else given.start
    options = StreamOptions(start=start, accept_loss=given.accept_loss, until_idle_seconds=given.until_idle)
    try:
        return run_worker(LaneSpec(given.config, given.job, Shard(int(index), int(of)), options), supervised=supervised)
    except VitaLakeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
