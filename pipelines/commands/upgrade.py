"""``vitalake lake upgrade``: a lake of an earlier release becomes one of this release."""

from __future__ import annotations

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home


def upgrade(home: HomeOption = None, json: JsonOption = False) -> None:
    """Make a lake of an earlier release one of this one; killed, run it again. Nothing else may write meanwhile.

    Stop streams and loads of the earlier release first. Readers may go on. What the key file lacks is added.
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
        late = f"{done.rows:,} rows of an earlier release's process written anew"
        lines = [f"The lake has format {done.after} already; {late if done.rows else 'nothing was changed'}."]
    else:
        lines = [f"key {name} was added: back the key file up anew" for name in done.keys]
        lines.append(
            f"The lake had format {done.before} and has format {done.after}: {done.settled:,} spans were added, "
            f"{done.rows:,} published rows written anew."
        )
    out.answer(asdict(done) | meter.summary(), *lines)
