"""AWS KMS as key service, against moto's server.

moto keeps keys, states and encryption contexts, and enforces IAM's policies when it is told to, but lets a disabled key
decrypt (seen in moto 5.2: ``Backend.decrypt`` does not look at the key's state). So a lost right is tried with moto
alone, and a disabled key behind a small proxy that refuses by the state which moto reports, in AWS's words.
"""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest

from governance.belonging import open_vault
from governance.home import init_home
from governance.keyservice import KeyRevoked, Wrapped, open_key_service
from governance.keyservice.kms import KmsKeyService
from tests.services.waiting import until
from tests.unit.governance.vault.vault_samples import Place, people
from vitalake.cli.app import main
from vitalake.errors import PrivacyError, ServiceUnavailable, SettingsError
from vitalake.keys import load_keys
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.s3

PLAIN, PLACE = b"k" * 32, b"vault x v1"
REGION = "eu-central-1"
ROOT = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


class Aws:
    """A moto server of one's own, for it is told to enforce policies, and stopped."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._listens, process=self.process)
        self.kms = self.client("kms")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self, name: str, **credentials: str) -> Any:
        return boto3.client(name, region_name=REGION, endpoint_url=self.endpoint, **(credentials or ROOT))

    def key(self) -> str:
        """Make a key; return its ARN. (moto disables and deletes by id only, AWS by either.)"""
        arn: str = self.kms.create_key()["KeyMetadata"]["Arn"]
        return arn

    def service(self, key: str, **options: str) -> KmsKeyService:
        return KmsKeyService(key, region=REGION, endpoint=self.endpoint, options=options or ROOT)

    def user(self, name: str, policy: dict[str, Any]) -> dict[str, str]:
        """Make a user with a policy; return their credentials."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        self.grant(name, policy, iam)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}

    def grant(self, name: str, policy: dict[str, Any], iam: Any) -> None:
        document = msgspec.json.encode({"Version": "2012-10-17", "Statement": [policy]}).decode()
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=document)

    def enforce(self) -> None:
        """From now on let users do only what their policies allow."""
        self._tell("reset-auth", b"0")

    def forget(self) -> None:
        """Lose all keys."""
        self._tell("reset", b"")

    def _tell(self, what: str, body: bytes) -> None:
        address, headers = f"{self.endpoint}/moto-api/{what}", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, data=body, headers=headers)).close()  # noqa: S310

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """A server for those who only keep keys in it."""
    server = Aws()
    yield server
    server.stop()


@pytest.fixture
def own_aws() -> Iterator[Aws]:
    """A server for one test, which may change its ways or stop it."""
    server = Aws()
    yield server
    server.stop()


class Strict:
    """A proxy before moto that refuses to use a key by its state, as AWS's documentation says of Encrypt and Decrypt.

    https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = proxy._answer(dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        target = headers["X-Amz-Target"]
        if target in ("TrentService.Encrypt", "TrentService.Decrypt"):
            key = msgspec.json.decode(body)["KeyId"]
            state = self._aws.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
            refused = {"Disabled": "DisabledException", "PendingDeletion": "KMSInvalidStateException"}.get(state)
            if refused:
                return 400, msgspec.json.encode({"__type": refused, "message": f"{key} is {state}"})
        request = urllib.request.Request(self._aws.endpoint, data=body, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def strict(aws: Aws) -> Iterator[Strict]:
    proxy = Strict(aws)
    yield proxy
    proxy.close()


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]


def test_what_is_wrapped_unwraps_in_its_context_only(aws: Aws) -> None:
    key = aws.key()
    service = aws.service(key)
    wrapped = service.wrap(PLAIN, context=PLACE)
    assert wrapped.key_id == key
    assert PLAIN not in wrapped.sealed
    assert service.unwrap(wrapped, context=PLACE) == PLAIN
    with pytest.raises(PrivacyError, match="cannot be opened") as caught:
        service.unwrap(wrapped, context=b"vault y v1")
    assert not isinstance(caught.value, KeyRevoked)
    with pytest.raises(PrivacyError, match="cannot be opened"):
        service.unwrap(Wrapped(key, wrapped.sealed[:-1] + bytes([wrapped.sealed[-1] ^ 1])), context=PLACE)
    assert not service.destroy(key)


def test_an_alias_that_leads_to_another_key_leaves_the_older_one_in_use(aws: Aws, tmp_path: Path) -> None:
    first, second = aws.key(), aws.key()
    aws.kms.create_alias(AliasName="alias/vault", TargetKeyId=first)
    place = Place(tmp_path)
    place.service = aws.service("alias/vault")
    vault = place.open()
    keys = vault.enrol(people(3))
    aws.kms.update_alias(AliasName="alias/vault", TargetKeyId=second)
    place.seconds.now += 1
    assert place.open().enrol(people(3)) == keys
    assert [key.key_id for key in vault.status().keys] == [first]
    place.service.revoke([first])
    states = [aws.kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] for key in (first, second)]
    assert states == ["Disabled", "Disabled"]
    place.service.restore([first])
    vault.rotate()
    assert [key.key_id for key in vault.status().keys] == [second]
    assert place.open().enrol(people(3)) == keys


def test_a_disabled_key_locks_within_a_second_and_goes_on_when_it_is_enabled(
    aws: Aws, strict: Strict, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    place.service = KmsKeyService(aws.key(), region=REGION, endpoint=strict.endpoint, options=ROOT)
    vault = place.open()
    keys = vault.enrol(people(3))
    place.service.revoke()
    assert [version.state for version in place.service.status()] == ["revoked"]
    assert vault.enrol(people(3)) == keys, "within the second"
    place.seconds.now += 1
    with pytest.raises(KeyRevoked, match=r"revoked \(DisabledException\): AWS KMS, key arn:.*keys revoke --undo"):
        vault.enrol(people(3))
    assert not vault._patients._by_id
    with pytest.raises(KeyRevoked):
        vault.rotate()
    place.service.restore()
    assert vault.enrol(people(3)) == keys


def test_a_key_that_is_to_be_deleted_is_a_revoked_one(aws: Aws, strict: Strict) -> None:
    key = aws.key()
    service = KmsKeyService(key, region=REGION, endpoint=strict.endpoint, options=ROOT)
    wrapped = service.wrap(PLAIN, context=PLACE)
    aws.kms.schedule_key_deletion(KeyId=_id(key))
    with pytest.raises(KeyRevoked, match="KMSInvalidStateException"):
        service.unwrap(wrapped, context=PLACE)
    aws.kms.cancel_key_deletion(KeyId=_id(key))
    aws.kms.enable_key(KeyId=_id(key))
    assert service.unwrap(wrapped, context=PLACE) == PLAIN


def test_a_right_that_was_taken_locks_and_given_back_goes_on(own_aws: Aws, tmp_path: Path) -> None:
    key = own_aws.key()
    allowed = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    officer = own_aws.user("officer", {"Effect": "Allow", "Action": "*", "Resource": "*"})
    lane = own_aws.user("lane", allowed)
    own_aws.enforce()
    place = Place(tmp_path)
    place.service = own_aws.service(key, **lane)
    vault = place.open()
    keys = vault.enrol(people(3))
    iam = own_aws.client("iam", **officer)
    own_aws.grant("lane", {**allowed, "Effect": "Deny"}, iam)
    place.seconds.now += 1
    with pytest.raises(KeyRevoked, match=r"revoked \(403\)"):  # AWS says AccessDeniedException, moto nothing but 403
        vault.enrol(people(3))
    own_aws.grant("lane", allowed, iam)
    assert vault.enrol(people(3)) == keys
    iam.delete_access_key(UserName="lane", AccessKeyId=lane["aws_access_key_id"])
    place.seconds.now += 1
    with pytest.raises(KeyRevoked, match=r"revoked \(403\)"):
        vault.enrol(people(3))


def test_a_key_that_is_gone_is_out_of_reach(own_aws: Aws) -> None:
    service = own_aws.service(own_aws.key())
    wrapped = service.wrap(PLAIN, context=PLACE)
    own_aws.forget()
    for use in (lambda: service.unwrap(wrapped, context=PLACE), service.status, service.rotate):
        with pytest.raises(KeyRevoked, match=r"NotFoundException|AccessDeniedException"):
            use()


def test_a_service_that_is_gone_is_unavailable_not_revoked(own_aws: Aws) -> None:
    service = own_aws.service(own_aws.key())
    wrapped = service.wrap(PLAIN, context=PLACE)
    own_aws.stop()
    with pytest.raises(ServiceUnavailable, match=r"does not answer \(EndpointConnectionError\)") as caught:
        service.unwrap(wrapped, context=PLACE)
    assert caught.value.transient


def test_an_answer_that_is_an_error_of_the_service_is_unavailable(aws: Aws) -> None:
    class Broken(Strict):
        def _answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
            return 500, b'{"__type": "KMSInternalException", "message": "Zz"}'

    proxy = Broken(aws)
    try:
        service = KmsKeyService(aws.key(), region=REGION, endpoint=proxy.endpoint, options=ROOT)
        with pytest.raises(ServiceUnavailable, match=r"\(KMSInternalException\)") as caught:
            service.wrap(PLAIN, context=PLACE)
        assert "Zz" not in str(caught.value)
    finally:
        proxy.close()


def test_a_home_says_which_key_and_where_its_credentials_are(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    init_home(home, lambda _: [])
    configuration = {
        "kind": "aws-kms",
        "region": REGION,
        "endpoint": aws.endpoint,
        "options": {"aws_access_key_id": "env:VITALAKE_TEST_ID", "aws_secret_access_key": "env:VITALAKE_TEST_SECRET"},
    }
    monkeypatch.setenv("VITALAKE_TEST_ID", "test")
    monkeypatch.setenv("VITALAKE_TEST_SECRET", "Zzsecret")

    def write(**more: object) -> None:
        (home / "vitalake.yaml").write_bytes(msgspec.json.encode({"key_service": {**configuration, **more}}))

    write(key=aws.key())
    service = open_key_service(load_settings(home))
    assert service.kind == "aws-kms"
    assert service.unwrap(service.wrap(PLAIN, context=PLACE), context=PLACE) == PLAIN
    assert "Zz" not in repr(load_settings(home))
    write()
    with pytest.raises(SettingsError, match="lacks its key"):
        open_key_service(load_settings(home))
    write(key="k", options={"Zznonsense": "Zz"})
    with pytest.raises(SettingsError, match="settings are not valid") as caught:
        open_key_service(load_settings(home))
    assert "Zz" not in str(caught.value)


def _configure(home: Path, **key_service: object) -> Settings:
    (home / "vitalake.yaml").write_bytes(msgspec.json.encode({"key_service": key_service}))
    return load_settings(home)


def test_a_home_moves_to_kms_and_back_by_rotating(aws: Aws, home: Path) -> None:
    keys, key = load_keys(home / "keys.yaml"), aws.key()
    kms = {"region": REGION, "endpoint": aws.endpoint, "options": ROOT, "key": key}
    vault = open_vault(load_settings(home), keys)
    patients = vault.enrol(people(3))
    vault.close()
    settings = _configure(home, kind="aws-kms", **kms)
    vault = open_vault(settings, keys)
    assert vault.enrol(people(3)) == patients, "the file still unwraps"
    assert main(["keys", "revoke", "--home", str(home)]) == 0
    assert [version.state for version in open_key_service(settings).status()] == ["revoked", "revoked"]
    assert main(["keys", "revoke", "--undo", "--home", str(home)]) == 0
    assert vault.rotate() == 3
    assert [found.key_id for found in vault.status().keys] == [key]
    file = (home / "vault-keys.yaml").rename(home / "away")
    vault.close()
    vault = open_vault(settings, keys)
    assert vault.enrol(people(3)) == patients, "the file is needed no more"
    vault.close()
    file.rename(home / "vault-keys.yaml")
    vault = open_vault(_configure(home, kind="local", **kms), keys)
    assert vault.enrol(people(3)) == patients
    assert vault.rotate() == 3
    assert vault.status().keys[0].key_id.startswith("local/")
    vault.close()
    assert open_vault(_configure(home, kind="local"), keys).enrol(people(3)) == patients


def test_what_the_proxy_reads_is_what_is_sent(aws: Aws, strict: Strict) -> None:
    """Of the test's own proxy: it passes on what it does not refuse."""
    client = boto3.client("kms", region_name=REGION, endpoint_url=strict.endpoint, **ROOT)
    key = aws.key()
    blob = client.encrypt(KeyId=key, Plaintext=PLAIN)["CiphertextBlob"]
    assert client.decrypt(KeyId=key, CiphertextBlob=blob)["Plaintext"] == PLAIN
    assert base64.b64encode(blob)
    aws.kms.disable_key(KeyId=_id(key))
    assert aws.kms.decrypt(KeyId=key, CiphertextBlob=blob)["Plaintext"] == PLAIN, "moto enforces it now: drop the proxy"
