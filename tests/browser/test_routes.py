"""The routes of the page and its files."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from {{ cookiecutter.__package_name }}.application import create_app

from ..conftest import settings


def test_the_page_and_all_that_it_names_are_there(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(r'(?:href|src)="(web/.*?)"', page.text)
    kinds = {name: client.get(f"/{name}").headers["content-type"] for name in names}
    assert kinds["web/page/style.css"] == "text/css; charset=utf-8"
    assert kinds["web/page/icon.svg"] == "image/svg+xml"
    scripts = {kind for name, kind in kinds.items() if name.endswith(".js")}
    assert scripts <= {"text/javascript; charset=utf-8"}


def test_the_page_may_load_nothing_from_elsewhere_and_run_no_inline_script(
    client: TestClient,
) -> None:
    for path in ("/", "/web/page/style.css"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert set(re.findall(r"-src (.*?)(?:;|$)", policy)) == {"'none'", "'self'"}
        for name in ("base-uri", "form-action", "frame-ancestors"):
            assert f"{name} 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_file_is_sent_again_only_when_it_has_changed(client: TestClient) -> None:
    first = client.get("/web/page/style.css")
    assert first.headers["cache-control"] == "no-cache"
    known = {"if-none-match": first.headers["etag"]}
    again = client.get("/web/page/style.css", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/web/page/style.css", headers={"if-none-match": '"other"'})
    assert other.content == first.content


def test_a_proxy_may_weaken_what_a_browser_knows_and_name_several(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    for known in (f"W/{etag}", f'"other", {etag}', f'W/"other",W/{etag}'):
        assert client.get("/", headers={"if-none-match": known}).status_code == 304
    for known in ("", 'W/"other", "another"'):
        assert client.get("/", headers={"if-none-match": known}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/web/page/style.css"])
def test_head_is_answered_as_get_without_the_content(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers
    known = {"if-none-match": get.headers["etag"]}
    assert client.head(path, headers=known).status_code == 304


@pytest.mark.parametrize("name", ["routes.py", "page/../routes.py", "..%2fmain.py", "page", ""])
def test_nothing_else_of_the_package_is_sent(client: TestClient, name: str) -> None:
    assert client.get(f"/web/{name}").status_code == 404


def test_a_setting_turns_the_page_off() -> None:
    client = TestClient(create_app(settings(demo=False)))
    for path in ("/", "/web/page/style.css"):
        assert client.get(path).status_code == 404


def test_the_page_is_no_part_of_the_api(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/web")]
