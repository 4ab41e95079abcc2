"""A privacy officer on a machine with several accounts; the kernel, not a claim, tells who somebody is."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from governance.home import init_home
from governance.samples import copy_samples
from tests.accounts import ONE, needs_accounts, open_folder
from tests.attribution import Ward
from vitalake.cli.app import main
from vitalake.lake.commits.lake import Lake

FIRST = """
import os, shutil, sys
from vitalake.cli.app import main
etc, data, own = sys.argv[1:4]
LIST = ["devices", "list", "--identified", "--json", "--home"]
assert main(["devices", "list", "--home", etc]) == 0  # as root: what is imported cannot be read any more afterwards
assert main([*LIST, etc]) == 12
for folder in (data, own):
    for path in (folder, *(os.path.join(at, name) for at, *names in os.walk(folder) for name in sum(names, []))):
        os.chown(path, int(sys.argv[4]), -1)
print("--", flush=True)
"""
THEN = """
print(main([*LIST, etc]), flush=True)
print(main([*LIST, own]), flush=True)
os.environ["VITALAKE_PRIVACY_OFFICERS"] = '["root"]'
print(main([*LIST, etc]), flush=True)
"""


@needs_accounts
def test_who_is_named_by_a_configuration_of_others_sees_names_and_by_ones_own_does_not() -> None:
    with open_folder() as folder:
        etc, data, own = folder / "etc", folder / "data", folder / "own"
        init_home(data, copy_samples)
        for place in (etc, own):
            place.mkdir(mode=0o755)
            _write(place / "vitalake.yaml", data)
        etc.chmod(0o755)
        Ward(etc)
        associate = ["--device", "bed-MARKER", "--patient", "A", "--from", "2026-03-01T10:00:00Z"]
        assert main(["devices", "associate", *associate, "--home", str(etc)]) == 0
        environment = {"LOGNAME": "root", "USER": "root", "VITALAKE_HOME": str(own)}
        said = ONE.run(THEN, str(etc), str(data), str(own), str(ONE.number), first=FIRST, env=environment)
        listed, code, *rest = said.partition("--\n")[2].splitlines()
        assert "bed-MARKER" in listed
        assert (code, rest[:2]) == ("0", ["12", "10"])
        assert "bed-MARKER" not in said.replace(listed, "")
        assert f"{own / 'vitalake.yaml'} belongs to this account" in said
        assert "Environment may not set privacy_officers: VITALAKE_PRIVACY_OFFICERS" in said
        records = b"".join(path.read_bytes() for path in (data / "audit").rglob("*") if path.is_file())
        assert f"local:{ONE.name}".encode() in records


@needs_accounts
def test_who_may_not_read_a_home_learns_whose_command_it_is() -> None:
    """It was an error of usage, about a variable that nobody had set."""
    commands = f"import sys\nfrom vitalake.cli.app import main\nfor line in {COMMANDS}:\n    main([*line.split(), "
    with open_folder() as folder:
        init_home(folder / "home", copy_samples)
        first = f"{commands}'--home', '{folder / 'none'}'])"  # imports what the other account cannot
        said = ONE.run(f"{commands}'--home', sys.argv[1]])", str(folder / "home"), first=first)
        assert said.count("Use the account that the home belongs to") == len(COMMANDS)
        assert "VITALAKE_HOME" not in said


@needs_accounts
def test_who_may_not_list_a_folder_of_the_lake_gets_no_report_of_a_bug() -> None:
    with open_folder() as folder:
        home = folder / "home"
        init_home(home, copy_samples)
        Ward(home).stream([])
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        Lake(str(home / "lake"), {}).open_all()
        (home / "lake" / "restricted").chmod(0o700)
        run = "from vitalake.cli.app import main\nimport sys\nmain(['lake', 'tables', '--home', sys.argv[1]])"
        said = ONE.run(run, str(home), first=run.replace("sys.argv[1]", f"'{folder / 'none'}'"))
        assert "This account may not read" in said
        assert "This is a bug" not in said


COMMANDS = ("doctor", "ledger", "lake verify", "lake tables", "dead-letters list", "stream")


def _write(config: Path, data: Path) -> None:
    """Write a configuration whose data are in another folder, as an administrator does."""
    before = os.umask(0o022)
    places = {name: str(data / path) for name, path in (("keys", "keys.yaml"), ("vault", "vault.db"))}
    places |= {name: str(data / name) for name in ("audit", "governance")}
    document = {
        **places,
        "privacy_officers": [ONE.name],
        "lake": {"uri": str(data / "lake")},
        "erasures": str(data / "erasures.jsonl"),
        "key_service": {"path": str(data / "vault-keys.yaml")},
        "care": {"path": str(data / "care.db")},
    }
    config.write_text(yaml.safe_dump(document))
    os.umask(before)
