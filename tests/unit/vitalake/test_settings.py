"""Who decides what a home is: its file, not the environment, and never the account that the file speaks about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from governance.keyservice.kms import KmsKeyService
from vitalake.errors import SettingsError
from vitalake.guarded import read_guarded
from vitalake.settings import Settings, load_settings

CALLER = 12_345
"""An account that owns nothing here; the tests' own account stands for the one that owns the configuration."""


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Folders of these tests are made as an administrator makes them."""
    before = os.umask(0o022)
    yield
    os.umask(before)


# -- the environment


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("VITALAKE_PRIVACY_OFFICERS", "privacy_officers"),
        ("vitalake_privacy_officers", "privacy_officers"),
        ("VITALAKE_GOVERNANCE", "governance"),
        ("VITALAKE_PROFILES", "profiles"),
        ("VITALAKE_KEYS", "keys"),
        ("VITALAKE_KEY_SERVICE__PATH", "key_service.path"),
        ("VITALAKE_KEY_SERVICE__ENDPOINT", "key_service.endpoint"),
        ("VITALAKE_VAULT", "vault"),
        ("VITALAKE_AUDIT", "audit"),
        ("VITALAKE_ERASURES", "erasures"),
        ("VITALAKE_CERTIFICATES", "certificates"),
        ("VITALAKE_RECORDS__KEEP_DAYS", "records.keep_days"),
        ("VITALAKE_SERVING__ISSUER", "serving.issuer"),
        ("VITALAKE_SERVING__SESSION_MINUTES", "serving.session_minutes"),
        ("VITALAKE_KAFKA__OPTIONS", "kafka.options"),
        ("VITALAKE_LAKE__STORAGE_OPTIONS", "lake.storage_options"),
        ("VITALAKE_JOBS", "jobs"),
        ("VITALAKE_JOBS__VITALS__TOPICS", "jobs.vitals.topics"),
        ("VITALAKE_JOBS__VITALS__MAX_FUTURE_SECONDS", "jobs.vitals.max_future_seconds"),
        ("VITALAKE_KAFKA", "kafka"),
        ("VITALAKE_NOTIFY", "notify"),
    ],
)
def test_a_variable_for_what_only_the_file_decides_is_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, setting: str
) -> None:
    monkeypatch.setenv(variable, '["somebody-MARKER"]')
    with pytest.raises(SettingsError, match=rf"may not set {setting}") as caught:
        load_settings(home)
    assert caught.value.where == variable
    assert "MARKER" not in str(caught.value)


def test_only_addresses_ports_and_sizes_may_be_set_by_a_variable() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/configuration.md").read_text()
    allowed = {line.split("`")[1] for line in page.splitlines() if line.rstrip().endswith("| yes |")}
    assert allowed == {
        "lake.uri", "kafka.bootstrap_servers", "serving.host", "serving.port", "observability.host",
        "observability.port", "maintenance.every_seconds", "jobs.*.span_seconds", "jobs.*.span_rows",
        "jobs.*.bundle_seconds", "jobs.*.relist_seconds", "jobs.*.poll_messages", "jobs.*.max_message_bytes",
        "jobs.*.fetch_queue_kbytes", "jobs.*.lookback_seconds", "jobs.*.lookback_entries",
        "queries.wait_seconds",
    }  # fmt: skip


def test_addresses_ports_and_sizes_come_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "vitalake.yaml").write_text(
        "kafka: {bootstrap_servers: 'file:1'}\njobs: {a: {span_rows: 7, late_seconds: 9}}"
    )
    monkeypatch.setenv("VITALAKE_KAFKA__BOOTSTRAP_SERVERS", "variable:2")
    monkeypatch.setenv("VITALAKE_JOBS__A__SPAN_ROWS", "8")
    monkeypatch.setenv("VITALAKE_SERVING__PORT", "0")
    settings = load_settings(home)
    assert settings.kafka.bootstrap_servers == "variable:2"
    assert (settings.jobs["a"].span_rows, settings.jobs["a"].late_seconds) == (8, 9.0)
    assert settings.serving.port == 0


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("VITALAKE_JOBS__OTHER__SPAN_ROWS", "8", "a job that is not configured"),
        ("VITALAKE_KAFKA__BOOTSTRAP", "x", "does not name a single setting"),
        ("VITALAKE_JOBS__VITALS", "{}", "does not name a single setting"),
        ("VITALAKE_HOME__X", "x", "does not name a single setting"),
        ("VITALAKE_SERVING__PORT", "MARKER", "does not fit"),
    ],
)
def test_a_variable_that_fits_nothing_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, what: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=what) as caught:
        load_settings(home)
    assert caught.value.where == variable
    assert "MARKER" not in str(caught.value)


@pytest.mark.parametrize(
    "servers", ["127.0.0.1:99999", "127.0.0.1:0", "kafka:port", "kafka:-1", ":9092", "[::1:9092", "", " , ", "a:1, b:x"]
)
def test_an_address_of_kafka_that_is_none_is_refused_when_the_file_is_read(home: Path, servers: str) -> None:
    """It ended an erasure with a traceback, after the key had been destroyed."""
    (home / "vitalake.yaml").write_text(f"lake: {{uri: lake}}\nkafka:\n  bootstrap_servers: '{servers}'\n")
    with pytest.raises(SettingsError, match=r"no address|not host:port, comma-separated") as caught:
        load_settings(home)
    assert caught.value.where.endswith("vitalake.yaml: kafka.bootstrap_servers")


@pytest.mark.parametrize("servers", ["kafka", "kafka:9092", "SASL_SSL://kafka-1:9093, [::1]:9092,10.0.0.3"])
def test_addresses_of_kafka_may_have_protocols_and_lack_ports(home: Path, servers: str) -> None:
    (home / "vitalake.yaml").write_text(f"kafka: {{bootstrap_servers: '{servers}'}}")
    assert load_settings(home).kafka.bootstrap_servers == servers


def test_a_section_that_is_none_is_told_by_its_own_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "vitalake.yaml").write_text("kafka: 7")
    monkeypatch.setenv("VITALAKE_KAFKA__BOOTSTRAP_SERVERS", "variable:2")
    with pytest.raises(SettingsError, match=r"vitalake.yaml: kafka"):
        load_settings(home)


def test_the_home_is_the_folder_of_the_file_whatever_a_variable_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITALAKE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("VITALAKE_TEST_SOMETHING", "not a setting")
    assert load_settings(home).home == home


def test_no_variable_of_the_cloud_moves_the_key_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the command would wrap the vault's keys by a service of their own."""
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    options = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    service = KmsKeyService("alias/one", region="eu-central-1", endpoint=None, options=options)
    assert service._client.meta.endpoint_url == "https://kms.eu-central-1.amazonaws.com"


# -- who could have written it


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "vitalake.yaml"
    path.parent.mkdir()
    path.write_text("privacy_officers: [r.meyer]\n")
    return path


def doubt(path: Path, caller: int = CALLER) -> str:
    return read_guarded(path, caller=caller)[1]


def test_a_file_of_another_account_in_folders_of_other_accounts_holds(config: Path) -> None:
    assert read_guarded(config, caller=CALLER) == ("privacy_officers: [r.meyer]\n", "")


def test_root_can_write_everything(config: Path) -> None:
    assert doubt(config, 0) == "root can write it"
    assert Settings().doubt


def test_a_file_that_others_may_write_is_nobodys_word(config: Path) -> None:
    for mode in (0o664, 0o646):
        config.chmod(mode)
        assert "can be written by others" in doubt(config)


def test_ones_own_file_is_ones_own_word_also_when_it_is_read_only(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.chmod(0o444)
    owner = config.stat().st_uid
    if owner == 0:  # root's doubt comes first: give it to somebody
        os.chown(config, CALLER, CALLER)
        owner = CALLER
    assert "belongs to this account" in doubt(config, owner)


def test_an_owner_whom_this_user_namespace_does_not_know_vouches_for_nobody(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``unshare --map-user`` gives any id without a privilege; the true owner then has none."""
    monkeypatch.setattr("vitalake.guarded._unmapped", lambda: config.stat().st_uid)
    assert "not known here" in doubt(config)


def test_an_owner_whom_the_system_does_not_list_vouches_for_nobody(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be lent to anybody: a file of another id is made without a privilege in a namespace."""
    monkeypatch.setattr("vitalake.guarded.account_name", lambda _: "")
    assert doubt(config) == ("" if os.getuid() == 0 else f"{config} belongs to an account that is not known here")
    for folder in (config.parent, config.parent.parent):
        folder.chmod(0o1777)
    if os.getuid() == 0:
        os.chown(config.parent, 100_123, -1)  # its owner may take entries away in spite of the bit
        assert "not known here" in doubt(config)


def test_an_owner_who_is_lent_to_the_caller_is_the_caller(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.getuid()
    lent = tmp_path / "subuid"
    monkeypatch.setattr("vitalake.accounts._SUBORDINATE", lent)
    for line, word in (
        (f"{CALLER}:{owner}:1", "belongs to this account"),
        (f"{CALLER}:{owner + 1}:9", ""),
        (f"{CALLER + 1}:{owner}:1", ""),
        (f"{CALLER}:{owner}\n\n:0:1\n{CALLER}:x:1", ""),
    ):
        lent.write_text(f"# a comment\n{line}\n")
        assert word in doubt(config), line
        assert bool(doubt(config)) == bool(word), line


@pytest.mark.parametrize("level", [0, 1])
def test_a_folder_above_that_others_may_write_lets_them_replace_it(config: Path, level: int) -> None:
    config.parents[level].chmod(0o777)
    assert str(config.parents[level]) in doubt(config)
    config.parents[level].chmod(0o1777)  # as /tmp: others add, but do not take away
    assert doubt(config) == ""


def test_a_link_is_as_good_as_the_folder_it_lies_in(config: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "vitalake.yaml").symlink_to(Path("..") / "etc" / "vitalake.yaml")
    (tmp_path / "absolute").symlink_to(chosen)
    link = tmp_path / "absolute" / ".." / "chosen" / "vitalake.yaml"
    assert doubt(link) == doubt(tmp_path / "absolute" / "vitalake.yaml") == ""
    chosen.chmod(0o777)
    assert str(chosen) in doubt(link)


def test_a_second_name_of_a_file_is_seen(config: Path, tmp_path: Path) -> None:
    """In a folder where everybody may write, it would have another home, with another audit."""
    os.link(config, tmp_path / "vitalake.yaml")
    assert "one name" in doubt(tmp_path / "vitalake.yaml")
