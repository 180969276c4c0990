"""Tokens and keys: which are accepted, and for how long."""

import logging
import os
import sys
import threading
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admitted,
    Realtime,
    RealtimeDep,
)
from fastapi_realtime.tokens import (
    Identified,
    IsRevoked,
    TokenAuthenticator,
    TokenError,
    TokenSettings,
    close_subject,
    make_token,
    new_secret,
)
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import WebSocketDenialResponse

from .serving import (
    Serve,
    connect,
    own_records,
    realtime_app,
    receive_all,
    running,
    started,
    warning,
)

KEY = "".join(map(chr, range(99, 32, -1))).replace(",", "")


async def has_revoked_id(claims: dict[str, Any]) -> bool:
    """Revoke the token whose `jti` says so."""
    return claims.get("jti") == "revoked"


def app_with(is_revoked: IsRevoked = has_revoked_id, **changes: object) -> FastAPI:
    """An application that sends the subject of a token."""
    settings = TokenSettings.model_validate({"auth_key": KEY} | changes)
    app = realtime_app(settings, authenticator=TokenAuthenticator(settings, is_revoked))

    @app.websocket("/who")
    async def who(connection: Admitted) -> None:
        await connection.send(connection.subject)
        async for _ in connection:
            pass

    return started(app)


def make(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token that is good, except for what is given here; `None` leaves a claim out."""
    all_claims = {"sub": "zoe", "exp": int(time.time()) + 600, **claims}
    return jwt.encode({k: v for k, v in all_claims.items() if v is not None}, key, algorithm)


def who(app: FastAPI, token: str) -> str | None:
    """Return the subject that the application finds; `None` is a 401."""
    headers = {"authorization": f"Bearer {token}"}
    try:
        with TestClient(app).websocket_connect("/who", headers=headers) as websocket:
            return websocket.receive_text()
    except WebSocketDenialResponse as refusal:
        answer = (refusal.status_code, refusal.json(), refusal.headers.get("www-authenticate"))
        if answer == (401, {"detail": "no valid token"}, "Bearer"):
            return None
        raise


def bearer(subject: str) -> dict[str, str]:
    """Return the header with a token for a subject."""
    return {"authorization": f"Bearer {make(sub=subject)}"}


def key_pair(private: Any) -> tuple[str, str]:
    """Return a private key and its public one, as PEM."""
    public = private.public_key()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def test_the_subject_of_a_good_token_is_on_the_connection() -> None:
    assert who(app_with(), make()) == "zoe"
    assert who(app_with(), make(sub="Zoë 🚀")) == "Zoë 🚀"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "rubbish",
        "a.b.c",
        make()[:-4],
        make(key=new_secret()),
        make(algorithm="HS512"),
        jwt.encode({"sub": "zoe", "exp": 2**33}, "", "none"),
        make(exp=None),
        make(exp=1),
        make(exp="soon"),
        make(exp=str(2**33)),
        make(exp=float("inf")),
        make(exp=True),
        make(iat="1"),
        make(iat=10**400),
        make(nbf=2**33),
        make(sub=None),
        make(sub=""),
        make(sub="z" * 256),
        make(sub="zoe\n"),
        make(aud="another service"),
    ],
    ids=range(21),
)
def test_any_other_token_gets_a_401_without_a_reason(token: str) -> None:
    assert who(app_with(), token) is None


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "no token"),
        ("rubbish", "malformed"),
        (make(key=new_secret()), "wrong signature"),
        (make(algorithm="HS512"), "wrong signature"),
        (make(exp=1), "expired"),
        (make(nbf=2**33), "not yet valid"),
        (make(iat=2**33), "not yet valid"),
        (make(aud="another service"), "another audience"),
        (make(sub=None), "a claim is missing or invalid"),
        (make(sub=5), "a claim is missing or invalid"),
        (make(iat="soon"), "a claim is missing or invalid"),
        (make(sub="zoe", jti="revoked"), "revoked"),
    ],
    ids=range(12),
)
def test_the_log_says_why_a_token_is_refused(
    caplog: pytest.LogCaptureFixture, token: str, reason: str
) -> None:
    assert who(app_with(), token) is None
    assert warning(caplog)["reason"] == f"no valid token: {reason}"
    assert not token or token not in caplog.text


def test_a_token_expires_exactly(caplog: pytest.LogCaptureFixture) -> None:
    assert who(app_with(), make(exp=time.time())) is None
    assert warning(caplog)["reason"] == "no valid token: expired"


def test_the_clock_of_who_signs_may_be_a_little_ahead() -> None:
    soon, later = time.time() + 3, time.time() + 60
    assert who(app_with(), make(iat=soon, nbf=soon)) == "zoe"
    assert who(app_with(), make(iat=later)) is None
    assert who(app_with(), make(nbf=later)) is None


def test_a_token_may_be_valid_for_very_long() -> None:
    assert who(app_with(), make(exp=10**400, nbf=-(10**400))) == "zoe"
    assert who(app_with(), make(exp=time.time() + 600.5)) == "zoe"


def test_an_audience_must_be_ours_where_we_have_one() -> None:
    app = app_with(auth_audience="chat")
    assert who(app, make(aud="chat")) == "zoe"
    assert who(app, make(aud=["other", "chat"])) == "zoe"
    assert who(app, make(aud="other")) is None
    assert who(app, make()) is None


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [
        ("RS256", generate_rsa(65537, 2048)),
        ("ES256", generate_ec(SECP256R1())),
        ("EdDSA", Ed25519PrivateKey.generate()),
    ],
)
def test_public_keys_are_accepted_but_not_as_secrets(
    algorithm: str, private: Any, tmp_path: Path
) -> None:
    private_key, public_key = key_pair(private)
    (tmp_path / "public.pem").write_text(public_key, "utf-8")
    for key in (public_key, f"file:{tmp_path}/public.pem"):
        app = app_with(auth_algorithms=algorithm, auth_key=key)
        assert who(app, make(private_key, algorithm)) == "zoe"
        assert who(app, make()) is None
        signed_with_what_everybody_knows = jwt.PyJWS().encode(
            b'{"sub":"zoe","exp":9999999999}', public_key.replace("-", ""), "HS256"
        )
        assert who(app, signed_with_what_everybody_knows) is None


def test_the_file_of_a_key_is_a_small_regular_file(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(65_537 * b"x")
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "folder").mkdir()
    for path, rule in (
        ("big", "more than 65536 bytes"),
        ("empty", "it is missing or empty"),
        ("folder", "not a regular file"),
    ):
        with pytest.raises(ValidationError, match=rule):
            TokenSettings(auth_key=f"file:{tmp_path / path}")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_no_device_and_no_pipe_is_read_for_a_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", f"{tmp_path}/pipe"):
        with pytest.raises(ValidationError, match="not a regular file"):
            TokenSettings(auth_key=f"file:{path}")


class ShopSettings(TokenSettings):
    """Settings of an application in the package `shop`."""

    __module__ = "shop.settings"


@pytest.mark.parametrize("key", ["", "x" * 64, f"{KEY},{'x' * 64}"])
def test_the_error_for_a_missing_key_names_the_command_that_makes_one(key: str) -> None:
    with pytest.raises(ValidationError, match="; `uv run python -m shop key` prints a new one"):
        ShopSettings.model_validate({"auth_key": key})


@pytest.mark.parametrize(
    ("key", "algorithms", "rule"),
    [
        ("", "HS256", "it is missing"),
        ("x" * 64, "HS256", "looks like an example"),
        ("a-string-secret-at-least-256-bits-long", "HS256", "looks like an example"),
        (KEY[:31], "HS256", "32 bytes"),
        (KEY[:63], "HS512", "64 bytes"),
        (KEY, "none", "HS256"),
        (KEY, "RS256", "not a key for RS256"),
        ("file:/nowhere", "HS256", "cannot be read"),
        (key_pair(generate_rsa(65537, 2048))[1], "HS256", "not a key for HS256"),
        (key_pair(generate_rsa(65537, 2048))[1], "RS256,HS256", "there is no key for HS256"),
        (key_pair(generate_rsa(65537, 2048))[0], "RS256", "private key"),
        (key_pair(generate_rsa(65537, 1024))[1], "RS256", "2048"),
        (key_pair(generate_ec(SECP384R1()))[1], "ES256", "not a key for ES256"),
    ],
    ids=range(13),
)
def test_an_invalid_key_is_refused_with_its_rule(key: str, algorithms: str, rule: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TokenSettings.model_validate({"auth_key": key, "auth_algorithms": algorithms})
    assert rule in str(refusal.value.errors(include_input=False))


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(TokenSettings(auth_key=KEY))


def test_browsers_offer_their_token_as_a_subprotocol_that_is_never_chosen() -> None:
    client = TestClient(app_with())
    with client.websocket_connect("/who", ["v1", f"bearer.{make()}"]) as websocket:
        assert websocket.accepted_subprotocol == "v1"
        assert websocket.receive_text() == "zoe"


@pytest.mark.parametrize(
    "offered", [["v1"], ["v1", "bearer."], [f"bearer.{make()}", f"bearer.{make(sub='ann')}"]]
)
def test_no_token_or_two_are_refused(offered: list[str]) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        TestClient(app_with()).websocket_connect("/who", offered),
    ):
        pass
    assert refusal.value.status_code == 401


def test_two_authorization_headers_are_refused() -> None:
    headers = [("authorization", f"Bearer {make(sub=subject)}") for subject in ("zoe", "ann")]
    app = app_with()

    @app.get("/who")
    async def who(identity: Identified) -> str:
        return identity.subject

    assert TestClient(app).get("/who", headers=headers).status_code == 401


def test_http_routes_check_the_same_token() -> None:
    app = app_with()

    @app.get("/who")
    async def who(identity: Identified) -> dict[str, Any]:
        return identity.claims

    client = TestClient(app)
    refused = client.get("/who")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    credentials = {"authorization": f"Bearer {make(role='admin')}"}
    assert client.get("/who", headers=credentials).json()["role"] == "admin"


def test_an_endpoint_finds_all_claims() -> None:
    app = app_with()

    @app.websocket("/claims")
    async def claims(connection: Admitted) -> None:
        await connection.send(connection.identity.claims["role"])

    headers = {"authorization": f"Bearer {make(role='admin')}"}
    with TestClient(app).websocket_connect("/claims", headers=headers) as websocket:
        assert websocket.receive_text() == "admin"


def test_a_token_in_the_url_is_ignored() -> None:
    with (
        pytest.raises(WebSocketDenialResponse),
        TestClient(app_with()).websocket_connect(f"/who?token={make()}&access_token={make()}"),
    ):
        pass


def test_the_connection_closes_when_its_token_expires(
    serve_both_ways: Serve,
) -> None:
    app, expires = app_with(), int(time.time()) + 600

    @app.websocket("/expiring")
    async def expiring(connection: Admitted) -> None:
        await connection.send(str(connection.identity.expires))
        connection.close_at(connection.identity.expires - 600)
        async for _ in connection:
            pass

    headers = {"Authorization": f"Bearer {make(exp=expires)}"}
    with connect(f"{serve_both_ways(app)}/expiring", additional_headers=headers) as client:
        assert receive_all(client) == ([str(expires)], 4401)


def test_a_subject_can_be_disconnected(serve: Serve) -> None:
    app = app_with()
    others = NearbyProcess()
    app.state.realtime.services = [others]
    closed: list[int] = []

    @app.post("/revoke")
    async def revoke(realtime: RealtimeDep) -> None:
        closed.append(await close_subject(realtime, "zoe"))

    url = serve(app)
    with (
        connect(f"{url}/who", additional_headers=bearer("zoe")) as zoe,
        connect(f"{url}/who", additional_headers=bearer("ann")) as ann,
    ):
        assert (zoe.recv(timeout=10), ann.recv(timeout=10)) == ("zoe", "ann")
        thread = threading.Thread(target=post, args=[url])
        thread.start()
        assert receive_all(zoe) == ([], 4401)
        thread.join()
        ann.ping().wait(10)
        assert ann.close_code is None
    assert closed == [1]
    assert others.closed == ["zoe"]


class NearbyProcess:
    """A service that reaches another process."""

    is_ready = True

    def __init__(self) -> None:
        self.closed: list[str] = []

    def lifespan(self, realtime: Realtime) -> AbstractAsyncContextManager[None]:
        """Need nothing."""
        return nullcontext()

    async def flush(self) -> None:
        """Have nothing to wait for."""

    async def close_subject(self, subject: str) -> None:
        """Record whose connections are to be closed there."""
        self.closed.append(subject)


def post(url: str) -> None:
    """Ask for the revocation."""
    urlopen(Request(f"{url.replace('ws', 'http', 1)}/revoke", method="POST"), timeout=10).close()


def test_a_revoked_token_is_refused() -> None:
    async def is_revoked(claims: dict[str, Any]) -> bool:
        return claims.get("jti") == "stolen"

    app = app_with(is_revoked)
    assert who(app, make(jti="stolen")) is None
    assert who(app, make(jti="mine")) == "zoe"


def test_a_subject_that_is_closed_while_revocation_is_looked_up_is_refused() -> None:
    async def is_revoked(claims: dict[str, Any]) -> bool:
        assert await close_subject(app.state.realtime, claims["sub"]) == 1
        return False  # what was known when the look-up began

    app = app_with(is_revoked)
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        TestClient(app).websocket_connect("/who", headers={"authorization": f"Bearer {make()}"}),
    ):
        pass
    assert refusal.value.status_code == 401
    assert app.state.realtime.connections == set()


def test_nothing_of_a_token_is_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    url = serve(app_with())
    with connect(f"{url}/who", additional_headers=bearer("zoe")) as client:
        token = client.request.headers["authorization"] if client.request else ""
    assert token.startswith("Bearer ey")
    logged = [str(vars(record)) for record in caplog.records]
    assert not any(part in line for line in logged for part in token.split()[1].split("."))


claims = st.dictionaries(
    st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "jti", "iss", "x"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda more: st.lists(more) | st.dictionaries(st.text(), more),
        max_leaves=5,
    ),
)


@hypothesis(deadline=None, derandomize=True, database=None, max_examples=25)
@given(claims)
def test_a_token_with_any_claims_is_accepted_or_refused(claimed: dict[str, Any]) -> None:
    signed = jwt.PyJWS().encode(jwt.api_jwt.json.dumps(claimed).encode(), KEY, "HS256")
    subject = who(APP, signed)
    assert subject is None or subject == claimed["sub"]


@hypothesis(deadline=None, derandomize=True, database=None, max_examples=25)
@given(st.from_regex(r"[A-Za-z0-9_.-]{0,60}", fullmatch=True), st.integers(0, 200))
def test_anything_else_is_refused(rubbish: str, place: int) -> None:
    good = make()
    assert who(APP, rubbish) is None
    assert who(APP, good[:place] + "-" + rubbish + good[place:]) is None


APP = app_with()


@pytest.mark.parametrize(
    ("subject", "seconds", "key", "rule"),
    [
        ("", 60, None, "1 to 255 printable characters"),
        ("zoe", float("inf"), None, "infinity"),
        ("zoe", 60, key_pair(Ed25519PrivateKey.generate())[1], "a public key signs nothing"),
        ("zoe", 60, key_pair(Ed25519PrivateKey.generate())[0], "not a key for HS256"),
    ],
)
def test_a_token_that_cannot_be_made_is_explained(
    subject: str, seconds: float, key: str | None, rule: str
) -> None:
    with pytest.raises(TokenError, match=rule):
        make_token(subject, seconds, TokenSettings(auth_key=KEY), key)


def test_tokens_for_development_are_accepted() -> None:
    private, public = key_pair(Ed25519PrivateKey.generate())
    asymmetric: dict[str, Any] = {
        "auth_key": public,
        "auth_algorithms": "EdDSA",
        "auth_audience": "chat",
    }
    settings, pem = TokenSettings(auth_key=KEY), TokenSettings.model_validate(asymmetric)
    assert who(app_with(), make_token("zoe", 60, settings)) == "zoe"
    assert who(app_with(**asymmetric), make_token("zoe", 60, pem, private)) == "zoe"


def test_the_log_has_the_subject(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(app_with()) as url, connect(f"{url}/who", additional_headers=bearer("zoe")):
        pass
    first, last = own_records(caplog)
    assert (vars(first)["subject"], vars(last)["subject"]) == ("zoe", "zoe")
