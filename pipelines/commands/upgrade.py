"""``vitalake lake upgrade``: upgrades a lake of an earlier release to the format of this release."""

from __future__ import annotations

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home


def upgrade(home: HomeOption = None, json: JsonOption = False) -> None:
    """Upgrade a lake of an earlier release to the format of this release, and add keys that the key file lacks.

    Stop streams and loads first: nothing else may write meanwhile. Readers can go on. If it was interrupted, run it
    again.
    """
    from dataclasses import asdict

    from pipelines.commands.rewrite import Meter
    from pipelines.republish.upgrade import upgrade as make_current
    from vitalake.settings import load_settings

    settings = load_settings(resolve_home(home))
    out = Output(json)
    meter = Meter(out.tell)
    done = make_current(settings, tell=out.tell, counted=meter)
    if done.before == done.after:
        late = f"{done.rows:,} rows that a process of an earlier release wrote were rewritten"
        lines = [f"The lake has format {done.after} already; {late if done.rows else 'nothing was changed'}."]
    else:
        lines = [f"key {name} was added: back up the key file again" for name in done.keys]
        lines.append(
            f"The lake had format {done.before} and has format {done.after}: {done.settled:,} spans were added, "
            f"{done.rows:,} published rows rewritten."
        )
    out.answer(asdict(done) | meter.summary(), *lines)
