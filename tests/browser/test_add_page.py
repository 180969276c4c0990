"""What `add_page` serves: the files of a folder, and the client."""

import mimetypes
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import Realtime, RealtimeSettings, add_asyncapi, add_page
from fastapi_realtime.page import ADD_SLASH
from starlette.staticfiles import StaticFiles

from .projects import Project, projects

CLIENT = "/client/client.js"
FILES = {
    "web/index.html": "<h1>Tea</h1>",
    "web/style.css": "h1 { color: green; }",
    "web/page.js": "tea();",
    "web/icon.svg": "<svg/>",
    "web/help/index.html": "<h1>Help</h1>",
    "web/routes.py": "SECRET = 1",
    "web/.env": "SECRET=1",
    "outside.css": "secret",
}


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A folder with a page, and with files that are for nobody."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path / "web"


@pytest.fixture
def app(web: Path) -> FastAPI:
    """An application with this page."""
    app = FastAPI()
    add_page(app, web)
    return app


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client that follows no redirects."""
    with TestClient(app, follow_redirects=False) as client:
        yield client


@projects("open", "tokens", "json-only", "empty")
def test_the_page_and_all_that_it_names_are_there(project: Project) -> None:
    client = TestClient(project.create_app())
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(r'(?:href|src)="(.*?)"', page.text)
    kinds = {name: client.get(f"/{name}").headers["content-type"] for name in names}
    assert kinds.keys() >= {"style.css", "icon.svg", "docs", "asyncapi"}
    scripts = [name for name in names if name.endswith(".js")]
    for script in scripts:
        imports = re.findall(r'from "\./(.*?)"', client.get(f"/{script}").text)
        kinds |= {name: client.get(f"/{name}").headers["content-type"] for name in imports}
    assert "application/json" not in kinds.values()


def test_kinds_of_files_do_not_depend_on_the_system(
    web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    for suffix in (".js", ".css", ".svg", ".html"):
        mimetypes.add_type("application/octet-stream", suffix)
    app = FastAPI()
    add_page(app, web)
    client = TestClient(app)
    paths = ("/", "/page.js", "/style.css", "/icon.svg", CLIENT)
    kinds = [client.get(path).headers["content-type"].partition(";")[0] for path in paths]
    assert kinds == ["text/html", "text/javascript", "text/css", "image/svg+xml", "text/javascript"]


@projects("open", "empty")
def test_the_only_inline_script_of_the_page_is_the_one_that_may_run(project: Project) -> None:
    page = TestClient(project.create_app()).get("/")
    assert re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL) == [ADD_SLASH]
    assert not re.search(r"<[^>]* (?:style|on\w+)=|<style", page.text)


@pytest.mark.parametrize("path", ["/", "/style.css", CLIENT])
def test_a_page_may_load_nothing_from_elsewhere_and_run_one_inline_script(
    client: TestClient, path: str
) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    script = b64encode(sha256(ADD_SLASH.encode()).digest()).decode()
    sources = {"'none'", "'self'", f"'self' 'sha256-{script}'"}
    assert set(re.findall(r"-src (.*?)(?:;|$)", policy)) == sources
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert f"{name} 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/style.css", CLIENT])
def test_a_file_is_sent_again_only_when_it_has_changed(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    known = {"if-none-match": first.headers["etag"]}
    again = client.get(path, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    for name in ("cache-control", "content-security-policy", "etag"):
        assert again.headers[name] == first.headers[name]
    other = client.get(path, headers={"if-none-match": '"other"'})
    assert other.content == first.content


def test_a_proxy_may_weaken_what_a_browser_knows_and_name_several(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    for known in (f"W/{etag}", f'"other", {etag}', f'W/"other",W/{etag}'):
        assert client.get("/", headers={"if-none-match": known}).status_code == 304
    for known in ("", 'W/"other", "another"'):
        assert client.get("/", headers={"if-none-match": known}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/style.css", CLIENT])
def test_head_is_answered_as_get_without_the_content(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers
    known = {"if-none-match": get.headers["etag"]}
    assert client.head(path, headers=known).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/none.html",
        "/routes.py",
        "/help/%2e%2e%2froutes.py",
        "/.env",
        "/..%2foutside.css",
        "/%2e%2e/outside.css",
        "/help/..%2f..%2foutside.css",
        "/client/..%2f..%2f..%2fstyle.css",
        "/client",
        "/client/",
        "/client/client.d.ts",
        "/client/package.json",
        "/client/..%2fpage.py",
        "/client/..%2fasyncapi/style.css",
        "/style.css%00",
        "/%00.css",
        f"/{'x' * 300}.css",
    ],
)
def test_nothing_else_is_sent(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path).status_code in (404, 405)


@pytest.mark.parametrize("path", ["/{}", "/{}style.css", "/client/{}client.js"])
def test_a_long_path_is_refused_before_its_folders_are_looked_up(
    client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    lookup_path = StaticFiles.lookup_path
    monkeypatch.setattr(
        StaticFiles,
        "lookup_path",
        lambda self, path: found.append(path) or lookup_path(self, path),
    )
    assert client.get(path.format("a/")).status_code == 404
    assert found != []
    found.clear()
    assert client.get(path.format("a/" * 1000)).status_code == 404
    assert found == []


@pytest.mark.parametrize("path", ["/none", "/none/", "/none.html", "/client/none.html"])
def test_no_page_stands_in_for_one_that_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"accept": "text/html"}).status_code == 404


def test_a_link_does_not_lead_out_of_the_folder(client: TestClient, web: Path) -> None:
    try:
        (web / "linked.css").symlink_to(web.parent / "outside.css")
    except OSError:
        pytest.skip("this system lets nobody make links")
    assert client.get("/linked.css").status_code == 404


def test_a_folder_inside_has_a_page_of_its_own(client: TestClient) -> None:
    assert client.get("/help/").text == "<h1>Help</h1>"


def test_files_can_only_be_read(client: TestClient) -> None:
    for path in ("/", "/style.css", CLIENT):
        assert client.post(path).status_code == 405
        assert client.delete(path).status_code == 405
    assert client.post("/none").status_code == 404


def test_routes_take_precedence_wherever_they_are_added(app: FastAPI, client: TestClient) -> None:
    @app.get("/style.css")
    @app.get("/client/{name}")
    async def later() -> dict[str, Any]:
        return {"from": "a route"}

    for path in ("/style.css", CLIENT):
        assert client.get(path).json() == {"from": "a route"}
    assert client.get("/style.css/").status_code == 307
    assert client.get("/docs").status_code == 200
    assert client.post("/client/client.js").status_code == 405


@projects("open")
def test_health_routes_and_rooms_take_precedence(project: Project) -> None:
    with TestClient(project.create_app()) as client:
        assert client.get("/livez").json() == {"status": "alive"}
        assert client.post("/ws_broadcast/tea", json="Hello").status_code == 202
        assert client.get("/ws_broadcast/tea").json() == {"count": 0, "members": []}
        assert client.post("/livez").status_code == 405


def test_the_page_is_no_part_of_the_api(app: FastAPI) -> None:
    assert app.openapi()["paths"] == {}


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not exist"):
        add_page(FastAPI(), tmp_path / "none")


@projects("open")
def test_a_setting_turns_the_page_off(project: Project) -> None:
    client = TestClient(project.create_app(demo=False))
    for path in ("/", "/style.css", CLIENT):
        assert client.get(path).status_code == 404


def test_the_page_about_websocket_routes_links_to_it(web: Path) -> None:
    apps = [FastAPI(), FastAPI()]
    for app in apps:
        Realtime(RealtimeSettings()).install(app)
        add_asyncapi(app)
    add_page(apps[0], web)
    pages = [TestClient(app).get("/asyncapi").text for app in apps]
    assert ["Console" in page for page in pages] == [True, False]
