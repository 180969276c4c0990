"""Several keys, keys that change, and JWKS files and URLs."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from fastapi import HTTPException
from fastapi_realtime import (
    SettingsError,
    load_settings,
)
from fastapi_realtime.tokens import (
    TokenAuthenticator,
    TokenError,
    TokenSettings,
    make_token,
    new_secret,
)
from fastapi_realtime.tokens import keys as keys_module
from starlette.testclient import WebSocketDenialResponse

from .serving import own_records
from .test_tokens import app_with, has_revoked_id, key_pair, who

pytestmark = pytest.mark.anyio

OLD, NEW, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
RSA, WEAK_RSA = generate_rsa(65537, 2048), generate_rsa(65537, 1024)
EC, OTHER_EC = generate_ec(SECP256R1()), generate_ec(SECP256K1())
SECRET = new_secret()
DAY = 86_400


class Clock:
    """A clock that stands still until a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class KeyServer(ThreadingHTTPServer):
    """A provider of keys, which counts its requests, and answers when it may."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/jwks.json"
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.pause = 0.0  # after each byte of the body
        self.requests = 0
        self.was_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def publish(self, *keys: object) -> None:
        """Serve these keys from now on."""
        self.status, self.body = 200, jwks(*keys).encode()


class Answer(BaseHTTPRequestHandler):
    """Answers as the server is told to."""

    def do_GET(self) -> None:
        """Answer a request."""
        server = self.server
        assert isinstance(server, KeyServer)
        server.requests += 1
        server.was_asked.set()
        server.may_answer.wait(10)
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the client may have given up
            self.end_headers()
            for start in range(0, len(server.body), step := 1 if server.pause else 100_000):
                self.wfile.write(server.body[start : start + step])
                time.sleep(server.pause)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """A provider of keys on a free port."""
    with KeyServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join()


def jwk(private: Any, **changes: object) -> dict[str, Any]:
    """Return the public key of a private one, as an entry of a JWKS."""
    names = {type(OLD): "EdDSA", type(RSA): "RS256", type(EC): "ES256"}
    algorithm = jwt.get_algorithm_by_name(names[type(private)])
    return {**algorithm.to_jwk(private.public_key(), as_dict=True), **changes}


def jwks(*keys: object) -> str:
    """Return a JWKS."""
    return json.dumps({"keys": keys})


def sign(key: Any, algorithm: str = "EdDSA", **header: object) -> str:
    """Return a token of zoe's; `kid` and the like go to its header."""
    return jwt.encode({"sub": "zoe", "exp": int(time.time()) + 600}, key, algorithm, header)


def check_with(
    *keys: str, algorithms: str = "EdDSA", clock: Clock | None = None
) -> TokenAuthenticator:
    """Return an authenticator that has these keys."""
    settings = {"auth_key": ",".join(keys), "auth_algorithms": algorithms}
    return TokenAuthenticator(
        TokenSettings.model_validate(settings), has_revoked_id, clock or Clock()
    )


async def status(authenticator: TokenAuthenticator, token: str) -> int:
    """Return 200 for a token that is accepted, else the status of the refusal."""
    try:
        identity = await authenticator.verify(token)
    except HTTPException as refusal:
        return refusal.status_code
    assert identity.subject == "zoe"
    return 200


async def finish_reading(authenticator: TokenAuthenticator) -> None:
    """Wait until keys that are being read have been read, as a token of a stranger does."""
    assert await status(authenticator, sign(STRANGER, kid="of a stranger")) == 401


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the message and the reason of every warning of our own."""
    records = [each for each in own_records(caplog) if each.levelno == logging.WARNING]
    return [(each.message, vars(each)["reason"]) for each in records]


def public_pem(private: Any) -> str:
    """Return the public key as PEM."""
    return key_pair(private)[1]


def settings_error(monkeypatch: pytest.MonkeyPatch, key: str, algorithms: str) -> str:
    """Return what the command would say about a key."""
    monkeypatch.setenv("APP_AUTH_KEY", key)
    monkeypatch.setenv("APP_AUTH_ALGORITHMS", algorithms)
    with pytest.raises(SettingsError) as error:
        load_settings(TokenSettings)
    return str(error.value)


async def test_each_of_several_keys_is_accepted_until_it_is_removed() -> None:
    old, new = new_secret(), new_secret()
    both, only_new = (check_with(*keys, algorithms="HS256") for keys in ((old, new), (new,)))
    assert await status(both, sign(old, "HS256")) == 200
    assert await status(both, sign(new, "HS256")) == 200
    assert await status(both, sign(new_secret(), "HS256")) == 401
    assert await status(only_new, sign(old, "HS256")) == 401
    assert await status(only_new, sign(new, "HS256")) == 200


async def test_secrets_files_and_jwks_work_side_by_side(tmp_path: Path, server: KeyServer) -> None:
    (tmp_path / "public.pem").write_text(public_pem(RSA), "utf-8")
    (tmp_path / "jwks.json").write_text(jwks(jwk(EC, kid="ec")), "utf-8")
    server.publish(jwk(OLD, kid="old"))
    keys = [SECRET, f" file:{tmp_path}/public.pem", f"file:{tmp_path}/jwks.json", server.url]
    authenticator = check_with(*keys, algorithms="HS256,RS256,ES256,EdDSA")
    assert await status(authenticator, sign(SECRET, "HS256")) == 200
    assert await status(authenticator, sign(RSA, "RS256")) == 200
    assert await status(authenticator, sign(RSA, "RS256", kid="unknown")) == 200
    assert server.requests == 0
    assert await status(authenticator, sign(EC, "ES256", kid="ec")) == 200
    assert await status(authenticator, sign(OLD, kid="old")) == 200
    assert await status(authenticator, sign(STRANGER)) == 401


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ([SECRET, "short"], "key 2 of 2, split at commas: this looks like an example"),
        ([SECRET[:40], "file:/nowhere", SECRET], "key 2 of 3, .* the file cannot be read"),
        ([SECRET, public_pem(RSA)], "key 2 of 2, .* not a key for HS256"),
        ([",", ","], "it is missing"),
    ],
    ids=["example", "no file", "type", "commas alone"],
)
def test_the_wrong_one_of_several_keys_is_told_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, keys: list[str], rule: str
) -> None:
    error = settings_error(monkeypatch, ",".join(keys), "HS256")
    assert re.search(f"APP_AUTH_KEY: {rule}", error)
    assert SECRET[:40] not in error


async def test_keys_of_a_jwks_file_change_while_the_server_runs(tmp_path: Path) -> None:
    file, clock = tmp_path / "jwks.json", Clock()
    old, new = sign(OLD, kid="old"), sign(NEW, kid="new")
    file.write_text(jwks(jwk(OLD, kid="old")), "utf-8")
    authenticator = check_with(f"file:{file}", clock=clock)
    assert await status(authenticator, old) == 200
    assert await status(authenticator, new) == 401
    file.write_text(jwks(jwk(OLD, kid="old"), jwk(NEW, kid="new")), "utf-8")
    clock.now += 30
    assert [await status(authenticator, token) for token in (old, new)] == [200, 200]
    file.write_text(jwks(jwk(NEW, kid="new")), "utf-8")
    clock.now += 30
    await finish_reading(authenticator)
    assert [await status(authenticator, token) for token in (old, new)] == [401, 200]


async def test_a_token_without_a_kid_is_checked_with_all_keys(server: KeyServer) -> None:
    server.publish(jwk(RSA, kid="rsa"), jwk(OLD, kid="old"), jwk(NEW, kid="new"), jwk(EC))
    authenticator = check_with(server.url, algorithms="EdDSA,RS256,PS256,ES256")
    assert await status(authenticator, sign(NEW)) == 200
    assert await status(authenticator, sign(RSA, "PS256")) == 200
    assert await status(authenticator, sign(STRANGER)) == 401
    assert await status(authenticator, sign(EC, "ES256", kid="of a key without one")) == 200
    assert await status(authenticator, sign(OLD, kid="new")) == 401


@pytest.mark.parametrize(("kid", "reason"), [("old", "wrong signature"), ("x", "unknown key")])
async def test_an_unknown_key_is_told_from_a_wrong_signature(
    server: KeyServer, kid: str, reason: str
) -> None:
    server.publish(jwk(OLD, kid="old"))
    authenticator = check_with(server.url)
    with pytest.raises(HTTPException) as refusal:
        await authenticator.verify(sign(STRANGER, kid=kid))
    assert vars(refusal.value)["reason"] == f"no valid token: {reason}"


async def test_an_unknown_kid_reads_the_keys_again_once_in_30_seconds(server: KeyServer) -> None:
    clock = Clock()
    server.publish(jwk(OLD, kid="old"))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, sign(OLD, kid="old")) == 200
    clock.now += 30
    assert await status(authenticator, sign(STRANGER, kid="old")) == 401
    assert server.requests == 1
    for number in range(100):
        assert await status(authenticator, sign(STRANGER, kid=f"{number}")) == 401
    assert server.requests == 2
    server.publish(jwk(OLD, kid="old"), jwk(NEW, kid="new"))
    clock.now += 29
    assert await status(authenticator, sign(NEW, kid="new")) == 401
    clock.now += 1
    assert await status(authenticator, sign(NEW, kid="new")) == 200
    assert server.requests == 3


async def test_tokens_that_come_at_once_wait_for_one_request_and_block_no_other(
    server: KeyServer,
) -> None:
    server.publish(jwk(NEW, kid="new"))
    server.may_answer.clear()
    authenticator = check_with(server.url, SECRET, algorithms="EdDSA,HS256")
    tokens = [sign(NEW, kid="new"), *(sign(STRANGER, kid=f"{number}") for number in range(20))]
    checks = [asyncio.create_task(status(authenticator, token)) for token in tokens]
    assert await asyncio.to_thread(server.was_asked.wait, 10)
    assert await status(authenticator, sign(SECRET, "HS256")) == 200
    assert not any(check.done() for check in checks)
    server.may_answer.set()
    assert await asyncio.gather(*checks) == [200, *[401] * 20]
    assert server.requests == 1


async def test_a_client_that_gives_up_does_not_stop_the_request_for_others(
    server: KeyServer,
) -> None:
    server.publish(jwk(NEW, kid="new"))
    server.may_answer.clear()
    authenticator = check_with(server.url)
    first, second = (
        asyncio.create_task(status(authenticator, sign(NEW, kid="new"))) for _ in range(2)
    )
    assert await asyncio.to_thread(server.was_asked.wait, 10)
    first.cancel()
    server.may_answer.set()
    assert await second == 200
    assert first.cancelled()


async def test_withdrawn_keys_of_a_url_stop_working_after_an_hour(server: KeyServer) -> None:
    clock, old = Clock(), sign(OLD, kid="old")
    server.publish(jwk(OLD, kid="old"), jwk(NEW, kid="new"))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, old) == 200
    server.publish(jwk(NEW, kid="new"))
    clock.now += 3599
    assert await status(authenticator, old) == 200
    assert server.requests == 1
    clock.now += 1
    assert await status(authenticator, old) == 200
    await finish_reading(authenticator)
    assert await status(authenticator, old) == 401
    assert server.requests == 2


async def test_withdrawn_keys_do_not_work_where_no_token_came_for_two_hours(
    server: KeyServer,
) -> None:
    clock = Clock()
    server.publish(jwk(OLD, kid="old"))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, sign(OLD, kid="old")) == 200
    server.publish(jwk(NEW, kid="new"))
    clock.now += 7200
    tokens = [sign(OLD, kid="old"), sign(OLD)] * 2
    checks = [status(authenticator, token) for token in tokens]
    assert await asyncio.gather(*checks) == [401] * 4


async def test_tokens_with_a_known_key_do_not_wait_while_old_keys_are_read_again(
    server: KeyServer,
) -> None:
    clock, known = Clock(), sign(OLD, kid="old")
    server.publish(jwk(OLD, kid="old"))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, known) == 200
    server.publish(jwk(NEW, kid="new"))
    server.may_answer.clear()
    server.was_asked.clear()
    clock.now += 3600
    for _ in range(10):
        assert await status(authenticator, known) == 200
        assert await status(authenticator, sign(OLD)) == 200
    assert await asyncio.to_thread(server.was_asked.wait, 10)
    assert await status(authenticator, known) == 200
    unknown = asyncio.create_task(status(authenticator, sign(NEW, kid="new")))
    server.may_answer.set()
    assert await unknown == 200
    assert await status(authenticator, known) == 401
    assert server.requests == 2


async def test_a_token_waits_for_no_other_source_than_that_of_its_key(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    fetch_really = keys_module.fetch

    def fetch(url: str) -> str:
        if url == server.url:
            return fetch_really(url)
        may_end.wait(10)
        return jwks()

    monkeypatch.setattr(keys_module, "fetch", fetch)
    server.publish(jwk(NEW, kid="new"))
    hanging = "http://localhost/jwks.json"
    authenticator = check_with(hanging, server.url)
    assert await status(authenticator, sign(NEW, kid="new")) == 200
    assert not may_end.is_set()
    stranger = asyncio.create_task(status(authenticator, sign(STRANGER)))
    may_end.set()
    assert await stranger == 401


async def test_a_jwks_without_keys_has_withdrawn_them(
    server: KeyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    (tmp_path / "jwks.json").write_text(jwks(jwk(OLD, kid="old")), "utf-8")
    server.publish(jwk(NEW, kid="new"))
    authenticator = check_with(server.url, f"file:{tmp_path}/jwks.json", clock=clock)
    tokens = [sign(OLD, kid="old"), sign(NEW, kid="new")]
    assert [await status(authenticator, token) for token in tokens] == [200, 200]
    (tmp_path / "jwks.json").write_text(jwks(), "utf-8")
    server.publish(jwk(WEAK_RSA, kid="weak"))
    clock.now += 3600
    await finish_reading(authenticator)
    assert [await status(authenticator, token) for token in tokens] == [401, 401]
    assert len(warnings(caplog)) == 2
    server.status = 500
    for _ in range(DAY // 3600 - 1):
        clock.now += 3600
        await finish_reading(authenticator)
    clock.now += 3600
    assert await status(authenticator, tokens[1]) == 503


async def test_a_key_without_a_kid_is_read_again_when_it_fits_no_token(server: KeyServer) -> None:
    clock = Clock()
    server.publish(jwk(OLD))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, sign(OLD)) == 200
    server.publish(jwk(NEW))
    clock.now += 30
    assert await status(authenticator, sign(OLD, kid="any")) == 200
    assert server.requests == 1
    assert await status(authenticator, sign(NEW)) == 200


BROKEN: dict[str, tuple[int, bytes, dict[str, str], str]] = {
    "not found": (404, jwks(jwk(NEW, kid="new")).encode(), {}, "HTTP Error 404"),
    "redirect": (302, b"", {"Location": "other.json"}, "HTTP Error 302"),
    "too large": (200, b" " * 65_537, {}, "more than 65536 bytes"),
    "not JSON": (200, b"<html>", {}, "this is not a JWKS"),
    "not an object": (200, b"[]", {}, "this is not a JWKS"),
    "no list": (200, b'{"keys": {}}', {}, "this is not a JWKS"),
    "too deep": (200, b"[" * 60_000, {}, "this is not a JWKS"),
    "not UTF-8": (200, b"\xff", {}, "can't decode byte 0xff"),
    "no HTTP": (200, b"", {"Content-Length": "x" * 70_000}, "got more than 65536 bytes"),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest) -> tuple[int, bytes, dict[str, str], str]:
    """An answer that is no JWKS: status, body, headers, and what the log says about it."""
    return BROKEN[request.param]


async def test_without_any_keys_yet_a_token_gets_503_until_they_can_be_read(
    server: KeyServer,
    broken: tuple[int, bytes, dict[str, str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, token = Clock(), sign(NEW, kid="new")
    server.status, server.body, server.headers, reason = broken
    authenticator = check_with(server.url, clock=clock)
    for _ in range(3):
        assert await status(authenticator, token) == 503
    ((message, logged),) = warnings(caplog)
    assert message == "keys could not be read"
    assert reason in logged
    assert server.requests == 1
    server.headers = {}
    server.publish(jwk(NEW, kid="new"))
    clock.now += 30
    assert await status(authenticator, token) == 200


async def test_keys_are_kept_for_a_day_when_they_cannot_be_read_again(
    server: KeyServer,
    broken: tuple[int, bytes, dict[str, str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, token = Clock(), sign(NEW, kid="new")
    server.publish(jwk(NEW, kid="new"))
    authenticator = check_with(server.url, clock=clock)
    assert await status(authenticator, token) == 200
    server.status, server.body, server.headers, _ = broken
    for _ in range(3):
        clock.now += DAY / 4
        assert await status(authenticator, token) == 200
        assert await status(authenticator, sign(STRANGER, kid="other")) == 401
    assert len(warnings(caplog)) == 1
    clock.now += DAY / 4
    assert await status(authenticator, token) == 503


async def test_the_same_problem_is_logged_again_after_it_was_gone(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock, token = Clock(), sign(NEW, kid="new")
    authenticator = check_with(server.url, clock=clock)
    for keys in ((), (jwk(NEW, kid="new"),), ()):
        server.publish(*keys)
        await status(authenticator, token)
        await status(authenticator, sign(STRANGER))
        clock.now += 3600
    assert warnings(caplog) == [("keys were left out", "no key is left")] * 2


async def test_a_provider_that_does_not_answer_is_given_up(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys_module, "TIMEOUT", 0.05)
    server.may_answer.clear()
    assert await status(check_with(server.url), sign(NEW)) == 503
    assert len(warnings(caplog)) == 1


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs for `https://localhost`, which `SSL_CERT_FILE` makes trusted."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, EC.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(EC, SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_text(certificate.public_bytes(Encoding.PEM).decode() + key_pair(EC)[0], "utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("no_proxy", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_https_needs_a_certificate_that_is_trusted(
    server: KeyServer, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(jwk(NEW))
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://127.0.0.1", "https://localhost")
    assert await status(check_with(url), sign(NEW)) == 200
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await status(check_with(url), sign(NEW)) == 503


async def test_a_provider_that_answers_slowly_is_given_up(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys_module, "TIMEOUT", 0.1)
    server.body, server.pause = b" " * 50, 0.02
    assert await status(check_with(server.url), sign(NEW)) == 503
    assert warnings(caplog) == [("keys could not be read", "TimeoutError")]


async def test_a_thread_ends_though_a_provider_drips(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "TIMEOUT", 0.1)
    server.body, server.pause = b" " * 50, 0.02
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(keys_module.fetch, server.url)


async def test_an_unreachable_provider_is_no_reason_not_to_start(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://localhost:{port}/jwks.json?key=xyz"
    authenticator = check_with(url, public_pem(OLD))
    assert warnings(caplog) == []
    assert await status(authenticator, sign(OLD)) == 200
    assert await status(authenticator, sign(NEW)) == 503
    assert await status(authenticator, sign(SECRET, "HS256")) == 401
    assert await status(authenticator, "rubbish") == 401
    (record,) = own_records(caplog)
    assert vars(record)["source"] == url.removesuffix("?key=xyz")
    assert record.exc_info is None


def test_clients_are_told_to_come_back_when_keys_are_not_available(server: KeyServer) -> None:
    server.status = 500
    app = app_with(auth_key=server.url, auth_algorithms="EdDSA")
    with pytest.raises(WebSocketDenialResponse) as refusal:
        who(app, sign(NEW))
    assert (refusal.value.status_code, refusal.value.headers["retry-after"]) == (503, "30")
    assert refusal.value.json() == {"detail": "keys are not available"}
    assert who(app, "") is None


async def test_keys_from_this_machine_are_not_read_through_a_proxy(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(jwk(NEW))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await status(check_with(server.url), sign(NEW)) == 200


async def test_a_token_cannot_say_where_its_key_is(server: KeyServer) -> None:
    server.publish(jwk(STRANGER, kid="mine"))
    authenticator = check_with(public_pem(OLD))
    where: dict[str, Any] = {"jku": server.url, "x5u": server.url, "jwk": jwk(STRANGER)}
    assert await status(authenticator, sign(STRANGER, kid="mine", **where)) == 401
    assert await status(authenticator, sign(OLD, kid="mine", **where)) == 200
    assert server.requests == 0


def forge(secret: bytes, **header: str) -> str:
    """Return a token signed with HS256 and anything at all, which PyJWT would refuse."""
    claims = {"sub": "zoe", "exp": 2**33}
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", **header}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"{signed.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_a_public_key_is_never_a_secret(server: KeyServer) -> None:
    server.publish(entry := jwk(RSA, kid="rsa"))
    pem = public_pem(RSA)
    authenticator = check_with(SECRET, pem, server.url, algorithms="HS256,RS256")
    assert await status(authenticator, forge(SECRET.encode())) == 200
    der = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = [pem.encode(), pem.strip().encode(), der, json.dumps(entry).encode(), b""]
    known.append(base64.urlsafe_b64decode(entry["n"] + "=="))
    for secret in known:
        for header in ({}, {"kid": "rsa"}, {"kid": "other"}):
            assert await status(authenticator, forge(secret, **header)) == 401
    assert await status(authenticator, sign(RSA, "RS256", kid="rsa")) == 200


UNUSABLE = {
    "weak": (jwk(WEAK_RSA, kid="bad"), "The RSA key is 1024 bits long"),
    "encryption": (jwk(STRANGER, kid="bad", use="enc"), "this is not a key for signatures"),
    "private": (jwk(STRANGER, kid="bad", d="AAAA"), "this is a private key"),
    "algorithm": (jwk(RSA, kid="bad", alg="RS512"), "this is not a key for any of"),
    "type": ({"kty": "lattice", "kid": "bad"}, "this is not a key for EdDSA, RS256, ES256"),
    "curve": (jwk(OTHER_EC, kid="bad"), "this is not a key for EdDSA, RS256, ES256"),
    "damaged": ({"kty": "RSA", "n": 5, "e": [], "kid": "bad"}, "this is not a key for"),
    "text": ("bad", "this is not a key for signatures"),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_keys_of_a_jwks_that_cannot_be_used_are_left_out_with_one_warning(
    server: KeyServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    entry, reason = UNUSABLE[name]
    clock = Clock()
    server.publish(entry, jwk(NEW, kid="new", use="sig", alg="EdDSA"))
    authenticator = check_with(server.url, algorithms="EdDSA,RS256,ES256", clock=clock)
    for _ in range(3):
        assert await status(authenticator, sign(NEW, kid="new")) == 200
        assert await status(authenticator, sign(STRANGER, kid="bad")) == 401
        assert await status(authenticator, sign(RSA, "RS256", kid="bad")) == 401
        clock.now += 3600
    ((message, logged),) = warnings(caplog)
    assert message == "keys were left out"
    assert logged.startswith(f"key 1: {reason}")


async def test_a_weak_key_of_a_jwks_signs_nothing(server: KeyServer) -> None:
    server.publish(jwk(WEAK_RSA, kid="weak"), jwk(RSA, kid="rsa"))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = sign(WEAK_RSA, "RS256", kid="weak")
    assert await status(check_with(server.url, algorithms="RS256"), token) == 401


async def test_secrets_of_a_jwks_count_in_a_file_but_not_from_a_url(
    server: KeyServer, tmp_path: Path
) -> None:
    secret, other = new_secret(), new_secret()
    entry = {"kty": "oct", "k": base64.urlsafe_b64encode(secret.encode()).decode(), "kid": "s"}
    server.publish(entry, jwk(NEW, kid="new"))
    (tmp_path / "jwks.json").write_text(jwks(entry), "utf-8")
    from_url = check_with(server.url, other, algorithms="EdDSA,HS256")
    assert await status(from_url, sign(NEW, kid="new")) == 200
    assert await status(from_url, sign(secret, "HS256", kid="s")) == 401
    from_file = check_with(f"file:{tmp_path}/jwks.json", algorithms="HS256")
    assert await status(from_file, sign(secret, "HS256", kid="s")) == 200
    assert await status(from_file, sign(other, "HS256", kid="s")) == 401


WEAK_SECRET = {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 64).decode()}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (jwks(jwk(OLD))[:-9], "this is not a JWKS, which looks like"),
        ("\ufeff" + jwks(jwk(OLD))[:-9], "this is not a JWKS, which looks like"),
        (json.dumps([jwk(OLD)])[:-9], "this is not a JWKS, which looks like"),
        (json.dumps(jwk(OLD)), "this is not a JWKS, which looks like"),
        (jwks(), "this JWKS has no key that can be used"),
        (jwks(jwk(OLD)), "no key that can be used; key 1: this is not a key for HS256"),
        (jwks(WEAK_SECRET), "no key that can be used; key 1: this looks like an example"),
    ],
    ids=["cut off", "from Windows", "a list", "one key", "empty", "type", "weak"],
)
def test_a_broken_jwks_file_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, rule: str
) -> None:
    (tmp_path / "jwks.json").write_text(text, "utf-8")
    error = settings_error(monkeypatch, f"file:{tmp_path}/jwks.json", "HS256")
    assert rule in error
    assert jwk(OLD)["x"] not in error


@pytest.mark.parametrize(
    ("url", "algorithms", "rule"),
    [
        ("http://login.example.com/jwks.json", "RS256", "http:// is for this machine alone"),
        ("HTTP://login.example.com/jwks.json", "RS256", "http:// is for this machine alone"),
        ("http://localhost.example.com/", "RS256", "http:// is for this machine alone"),
        ("https://zoe:pa55@example.com/", "RS256", "this is not a URL like https://"),
        ("https://example.com:pa55/", "RS256", "this is not a URL like https://"),
        ("https://", "RS256", "this is not a URL like https://"),
        ("https://example.com/ pa55", "RS256", "this is not a URL like https://"),
        ("https://example.com/jwks.json", "HS256", "a URL has public keys"),
    ],
)
def test_an_unsafe_url_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str, algorithms: str, rule: str
) -> None:
    error = settings_error(monkeypatch, url, algorithms)
    assert rule in error
    assert "pa55" not in error


@pytest.mark.parametrize(
    "url", ["https://login.example.com:8443/a?b=c", "http://localhost/", "http://[::1]:9/"]
)
def test_a_url_is_not_read_at_the_start(url: str) -> None:
    check_with(url)


async def test_no_key_is_shown_in_logs_or_objects(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = new_secret()
    k = base64.urlsafe_b64encode(secret.encode()).decode()
    server.publish({"kty": "oct", "k": k}, jwk(NEW, kid="new", d="AAAA"))
    authenticator = check_with(server.url, SECRET, algorithms="EdDSA,HS256")
    assert await status(authenticator, sign(NEW, kid="new")) == 401
    settings = TokenSettings.model_validate({"auth_key": SECRET})
    shown = [str(vars(record)) for record in caplog.records]
    shown += [repr(settings), repr(settings.key_set().keys), repr(settings.key_set())]
    assert len(warnings(caplog)) == 1
    assert not any(key in text for text in shown for key in (SECRET, secret, k, jwk(NEW)["x"]))


async def test_tokens_are_made_with_the_first_secret_or_with_a_private_key(
    tmp_path: Path,
) -> None:
    private, public = key_pair(RSA)
    mixed = TokenSettings.model_validate(
        {"auth_key": f"{public},{SECRET},{new_secret()}", "auth_algorithms": "RS256,HS512"}
    )
    authenticator = check_with(public, SECRET, algorithms="RS256,HS512")
    assert await status(authenticator, make_token("zoe", 60, mixed)) == 200
    assert await status(authenticator, make_token("zoe", 60, mixed, private)) == 200
    (tmp_path / "jwks.json").write_text(jwks(jwk(RSA)), "utf-8")
    file = {"auth_key": f"file:{tmp_path}/jwks.json", "auth_algorithms": "RS256"}
    with pytest.raises(TokenError, match="give the private one with --key"):
        make_token("zoe", 60, TokenSettings.model_validate(file))


async def test_a_token_can_be_made_with_more_claims() -> None:
    settings = TokenSettings.model_validate({"auth_key": SECRET, "auth_audience": "chat"})
    token = make_token("zoe", 60, settings, claims={"rooms": ["tea"]})
    identity = await TokenAuthenticator(settings, has_revoked_id).verify(token)
    assert identity.claims["rooms"] == ["tea"]
    for claims, rule in (
        ({"sub": "ann"}, "can't set sub, exp or aud"),
        ({"exp": 2**33}, "can't set sub, exp or aud"),
        ({"aud": "other"}, "can't set sub, exp or aud"),
        ({"rooms": {1, 2}}, "not JSON serializable"),
    ):
        with pytest.raises(TokenError, match=rule):
            make_token("zoe", 60, settings, claims=claims)
