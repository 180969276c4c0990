"""Level 0: every project has exactly the files that it should, and nothing odd in them."""

import ast
import html
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

from ..conftest import (
    ALL_OFF,
    ALL_ON,
    ENDPOINTS,
    PLAIN,
    PROJECTS,
    TEMPLATE,
    WITH_REDIS,
    Answers,
    Bake,
    project_params,
)

ALWAYS = """
    .env.example .gitignore README.md SECURITY.md pyproject.toml examples/talk.py
    src/PACKAGE/__init__.py src/PACKAGE/__main__.py src/PACKAGE/application.py
    src/PACKAGE/main.py src/PACKAGE/settings.py
    src/PACKAGE/endpoints/__init__.py src/PACKAGE/endpoints/health.py
    ENGINE/__init__.py ENGINE/close_codes.py ENGINE/connection.py ENGINE/engine.py
    ENGINE/errors.py ENGINE/fair_turn.py ENGINE/formats.py ENGINE/lifecycle.py
    ENGINE/load_settings.py ENGINE/rate_limiter.py
    ENGINE/settings.py
    ENGINE/message_types.py ENGINE/signature.py
    ENGINE/asyncapi/__init__.py ENGINE/asyncapi/channels.py ENGINE/asyncapi/document.py
    ENGINE/asyncapi/endpoints.py ENGINE/asyncapi/examples.py ENGINE/asyncapi/fields.py
    ENGINE/asyncapi/html.py ENGINE/asyncapi/messages.py ENGINE/asyncapi/page.py
    ENGINE/asyncapi/parameters.py ENGINE/asyncapi/routes.py ENGINE/asyncapi/schemas.py
    ENGINE/asyncapi/style.css
    ENGINE/handshake/__init__.py ENGINE/handshake/admission.py
    ENGINE/handshake/connection_limiter.py ENGINE/handshake/identity.py
    ENGINE/handshake/origin.py
    ENGINE/server/__init__.py ENGINE/server/command.py ENGINE/server/fast_path.py
    ENGINE/server/frames.py ENGINE/server/http_protocol.py ENGINE/server/inbox.py ENGINE/server/light_protocol.py ENGINE/server/upgrade.py
    ENGINE/server/logging.py ENGINE/server/metrics.py ENGINE/server/open_files.py
    ENGINE/server/shutdown.py ENGINE/server/sliced_protocol.py ENGINE/server/stop_signals.py
    ENGINE/server/websocket_protocol.py ENGINE/server/write_deadline.py
    tests/__init__.py tests/conftest.py tests/test_asyncapi.py tests/test_command.py tests/test_health.py
    tests/test_routes.py tests/test_settings.py
    tests/realtime/__init__.py tests/realtime/conftest.py tests/realtime/routes.py
    tests/realtime/metric_reader.py tests/realtime/serving.py tests/realtime/soak.py
    tests/realtime/test_admission.py tests/realtime/test_asyncapi.py
    tests/realtime/test_asyncapi_page.py tests/realtime/test_message_types.py
    tests/realtime/test_command.py tests/realtime/test_connection.py
    tests/realtime/test_engine.py tests/realtime/test_errors.py tests/realtime/test_fair_turn.py
    tests/realtime/test_fast_path.py tests/realtime/test_formats.py tests/realtime/test_frames.py
    tests/realtime/test_hostile.py tests/realtime/test_idle.py tests/realtime/test_inbox.py
    tests/realtime/test_logging.py tests/realtime/test_metrics.py
    tests/realtime/test_open_files.py tests/realtime/test_rate_limiter.py
    tests/realtime/test_routes.py tests/realtime/test_server.py tests/realtime/test_settings.py
    tests/realtime/test_shutdown.py tests/realtime/test_soak.py
    tests/realtime/test_upgrade.py tests/realtime/test_uvicorn.py
"""
ONLY_WITH = {
    "include_echo": "src/PACKAGE/endpoints/echo.py tests/test_echo.py",
    "include_json": "src/PACKAGE/endpoints/json_messages.py tests/test_json_messages.py",
    "include_broadcast": """
        src/PACKAGE/endpoints/broadcast.py tests/test_broadcast.py
        ENGINE/rooms/__init__.py ENGINE/rooms/access.py ENGINE/rooms/batch.py
        ENGINE/rooms/broker.py ENGINE/rooms/confirmations.py ENGINE/rooms/events.py
        ENGINE/rooms/formats.py
        ENGINE/rooms/history.py ENGINE/rooms/hub.py ENGINE/rooms/keyed_limiter.py
        ENGINE/rooms/member.py ENGINE/rooms/memory.py ENGINE/rooms/names.py
        ENGINE/rooms/post.py ENGINE/rooms/presence.py ENGINE/rooms/requests.py
        ENGINE/rooms/room.py ENGINE/rooms/rooms.py ENGINE/rooms/settings.py
        ENGINE/rooms/subscriber.py
        tests/realtime/brokers.py tests/realtime/hub_client.py tests/realtime/room_app.py
        tests/realtime/test_access.py tests/realtime/test_broker.py
        tests/realtime/test_confirmations.py tests/realtime/test_history.py
        tests/realtime/test_hub.py tests/realtime/test_keyed_limiter.py
        tests/realtime/test_memory.py tests/realtime/test_names.py tests/realtime/test_post.py
        tests/realtime/test_presence.py tests/realtime/test_publish.py
        tests/realtime/test_requests.py tests/realtime/test_room_formats.py
        tests/realtime/test_room_metrics.py
        tests/realtime/test_rooms.py
    """,
    "broker": """
        SCALING.md ENGINE/rooms/redis/__init__.py ENGINE/rooms/redis/broker.py
        ENGINE/rooms/redis/change.py ENGINE/rooms/redis/commands.py ENGINE/rooms/redis/cursor.py
        ENGINE/rooms/redis/exchange.py ENGINE/rooms/redis/health.py ENGINE/rooms/redis/keys.py
        ENGINE/rooms/redis/link.py ENGINE/rooms/redis/members.py ENGINE/rooms/redis/messages.py
        ENGINE/rooms/redis/notices.py ENGINE/rooms/redis/packed.py ENGINE/rooms/redis/processes.py
        ENGINE/rooms/redis/publisher.py ENGINE/rooms/redis/reader.py ENGINE/rooms/redis/replay.py
        ENGINE/rooms/redis/roster_scripts.py ENGINE/rooms/redis/rosters.py
        ENGINE/rooms/redis/scripts.py ENGINE/rooms/redis/settings.py
        ENGINE/rooms/redis/supervisor.py ENGINE/rooms/redis/sync_rooms.py
        ENGINE/rooms/redis/unsent.py ENGINE/rooms/redis/view.py ENGINE/rooms/redis/waker.py
        ENGINE/rooms/redis/who.py tests/realtime/redis_server.py tests/realtime/redis/__init__.py
        tests/realtime/redis/conftest.py tests/realtime/redis/room_server.py
        tests/realtime/redis/talk.py tests/realtime/redis/test_keys.py
        tests/realtime/redis/test_losses.py tests/realtime/redis/test_outages.py
        tests/realtime/redis/test_processes.py tests/realtime/redis/test_publishing.py
        tests/realtime/redis/test_reading.py tests/realtime/redis/test_rooms.py
        tests/realtime/redis/test_rosters.py tests/realtime/redis/test_start.py
        tests/realtime/redis/test_sync_rooms.py
    """,
    "auth": """
        src/PACKAGE/policy.py tests/test_policy.py
        ENGINE/tokens/__init__.py ENGINE/tokens/download.py ENGINE/tokens/jwks.py
        ENGINE/tokens/key_set.py ENGINE/tokens/keys.py ENGINE/tokens/parse_jwks.py ENGINE/tokens/settings.py
        ENGINE/tokens/signing.py ENGINE/tokens/tokens.py
        tests/realtime/test_keys.py tests/realtime/test_tokens.py
    """,
    "include_demo": """
        src/PACKAGE/web/__init__.py src/PACKAGE/web/routes.py PAGE/icon.svg PAGE/index.html
        PAGE/style.css tests/web/__init__.py tests/web/conftest.py tests/web/test_page.py
        tests/web/test_routes.py
    """,
}
PAGE_WITH = {
    "any endpoint": "PAGE/announcer.js PAGE/explain.js PAGE/transcript.js",
    "a console": "PAGE/console.js",
    "tokens": "PAGE/token.js tests/web/test_token_field.py",
    "include_broadcast": """
        src/PACKAGE/web/client.d.ts src/PACKAGE/web/client.js PAGE/conversation.js
        PAGE/members.js PAGE/network.js PAGE/rate.js PAGE/room.js tests/web/client.test.mjs
        tests/web/test_client.py tests/web/test_room_page.py tests/web/test_types.py
    """,
}
"""Files that are there with `include_demo` and something else."""
WITHOUT_BROADCAST: Answers = {"broker": "memory"}
"""What these answers come to without rooms."""
ROUTES = {"include_echo": "/ws", "include_json": "/ws_json", "include_broadcast": "/ws_broadcast"}


def files(project: Path) -> dict[str, str]:
    """Return the text of every file in a project, by its path."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes().decode("utf-8")
        for path in sorted(project.rglob("*"))
        if path.is_file()
    }


def package(project: Path) -> str:
    """Return the name of the only package."""
    (name,) = (path.name for path in (project / "src").iterdir())
    return name


@project_params()
def test_the_files_are_exactly_those_that_were_asked_for(project: Path, answers: Answers) -> None:
    wanted = answers if answers["include_broadcast"] else answers | WITHOUT_BROADCAST
    off = (False, "none", "memory")
    chosen = [paths for key, paths in ONLY_WITH.items() if wanted[key] not in off]
    if answers["include_demo"]:
        has_endpoint = any(answers[key] for key in ENDPOINTS)
        parts = {
            "any endpoint": has_endpoint,
            "a console": answers["include_echo"] or answers["include_json"],
            "tokens": has_endpoint and answers["auth"] == "jwt",
            "include_broadcast": answers["include_broadcast"],
        }
        chosen += [PAGE_WITH[part] for part, is_there in parts.items() if is_there]
    listed = " ".join([ALWAYS, *chosen])
    listed = listed.replace("ENGINE", "src/PACKAGE/realtime").replace(
        "PAGE/", "src/PACKAGE/web/page/"
    )
    expected = listed.replace("PACKAGE", package(project)).split()
    assert list(files(project)) == sorted(expected)
    assert [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


@project_params()
def test_no_file_shows_that_it_was_rendered(project: Path, answers: Answers) -> None:
    for path, text in files(project).items():
        plain = text.replace("{{ 7*7 }}", "")
        assert not re.search(r"\{\{|\{%|%\}|\{#|cookiecutter", plain), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert "\r" not in text, path
        assert not re.search(r"[ \t]\n", text), path
        has_python = path.endswith((".py", "README.md"))  # two blank lines between functions
        too_many = "\n" * (4 if has_python else 3)
        assert too_many not in text, path
        assert not text.startswith("\n"), path


@project_params()
def test_every_file_parses(project: Path, answers: Answers) -> None:
    for path, text in files(project).items():
        if path.endswith(".py"):
            ast.parse(text, filename=path)
        elif path.endswith(".toml"):
            tomllib.loads(text)


@project_params()
def test_free_text_arrives_as_it_was_typed(project: Path, answers: Answers) -> None:
    typed = answers.get("project_name", "My WebSocket App").replace(
        "{{ '{{ 7*7 }}' }}", "{{ 7*7 }}"
    )
    metadata = tomllib.loads(files(project)["pyproject.toml"])["project"]
    if "description" in answers:
        assert metadata["description"] == typed
        assert metadata["authors"] == [{"name": typed}]
    main = files(project)[f"src/{package(project)}/application.py"]
    (title,) = re.findall(r"title = (.*)", main)
    assert ast.literal_eval(title) == typed
    if answers["include_demo"]:
        page = files(project)[f"src/{package(project)}/web/page/index.html"]
        titles = re.findall("<(?:title|h1)>(.*)</", page)
        assert [html.unescape(title) for title in titles] == [typed, typed]
        assert "<script>" not in page
    assert "<script>" not in files(project)["README.md"]


def owners_names(paths: Iterable[str], source: str) -> set[str]:
    """Return what an owner sees in the package: files, and folders with a slash."""
    inside = [path.removeprefix(source) for path in paths if path.startswith(source)]
    names = {"".join(path.partition("/")[:2]) for path in inside}
    return names - {"__init__.py"}


@project_params([*PLAIN, *WITH_REDIS])
def test_the_readme_names_what_is_there_and_nothing_else(project: Path, answers: Answers) -> None:
    everything = files(project)
    readme = everything["README.md"]
    source = f"src/{package(project)}/"

    written_by_its_reader = re.compile(
        r"(endpoints/|tests/test_)(shout|orders|items)\.py|metrics\.py"
    )
    for path in set(re.findall(r"[\w/]+\.py\b", readme)):
        if written_by_its_reader.fullmatch(path):
            continue
        assert {path, source + path} & everything.keys(), path
    tree = re.findall(r"^    (\w+(?:\.py|/)) ", readme, re.MULTILINE)
    assert set(tree) == owners_names(everything, source)

    routes = set(re.findall(r"/ws\w*", readme)) - {"/ws_broadcast/tea"}
    assert routes == {route for key, route in ROUTES.items() if answers[key]}

    table = dict(re.findall(r"^\| `(APP_\w+)` \| `?(.*?)`? ?\|", readme, re.MULTILINE))
    example = dict(
        re.findall(r"^# (APP_\w+)=\"?(.*?)\"?$", everything[".env.example"], re.MULTILINE)
    )
    assert table == example
    others = {"APP_TOKEN", "APP_VOLUME", "APP_METRICS_PORT"}  # of the client, and of examples
    assert set(re.findall(r"APP_\w+", readme)) - others == set(table)


@project_params([*PLAIN, *WITH_REDIS])
def test_every_row_of_the_security_table_names_a_test_or_the_deployer(
    project: Path, answers: Answers
) -> None:
    everything = files(project)
    rows = re.findall(r"^\| (?!asked|---)(.*) \|$", everything["SECURITY.md"], re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        tests = re.findall(r"`([\w/]*test_\w+\.py)::(test_\w+)`", row)
        assert tests or "yours: " in row, row
        for path, name in tests:
            assert f"def {name}(" in everything[f"tests/{path}"], row
        for path in re.findall(r"`([\w/]+\.py)`", row):
            assert f"src/{package(project)}/{path}" in everything, row


@project_params([PROJECTS[0], PROJECTS[-1]])
def test_hooks_add_nothing(project: Path, answers: Answers, tmp_path: Path) -> None:
    without = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context=answers,
        output_dir=str(tmp_path),
        accept_hooks=False,
        default_config=True,
    )
    assert files(Path(without)) == files(project)


def test_the_defaults_are_every_endpoint_for_anybody(bake: Bake) -> None:
    chosen = bake(**{**ALL_ON, "auth": "none"})
    assert files(bake().project_path) == files(chosen.project_path)


@project_params([ALL_ON, {**ALL_OFF, "broker": "redis"}])
def test_without_the_redis_broker_there_is_nothing_of_redis(
    project: Path, answers: Answers
) -> None:
    for path, text in files(project).items():
        if path != "tests/realtime/brokers.py":  # which looks whether it is there
            assert not re.search(r"redis|BROKER_URL|broker_url", f"{path} {text}", re.IGNORECASE), (
                path
            )


def test_every_question_has_a_label() -> None:
    context: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    asked = [key for key in context if not key.startswith("_")]
    assert list(context["__prompts__"]) == asked


def test_rendered_projects_are_tested_with_the_versions_they_ask_for(bake: Bake) -> None:
    own = tomllib.loads((TEMPLATE / "pyproject.toml").read_text("utf-8"))["dependency-groups"][
        "dev"
    ]
    project = bake(**{**ALL_ON, "broker": "redis"}).project_path
    rendered = tomllib.loads(files(project)["pyproject.toml"])
    needed = rendered["project"]["dependencies"] + rendered["dependency-groups"]["dev"]
    assert set(needed) <= set(own)


@pytest.mark.parametrize(
    ("name", "slug", "package_name"),
    [
        ("My WebSocket App", "my-websocket-app", "my_websocket_app"),
        ('Zoë\'s "Chat" \\ App', "zoe-s-chat-app", "zoe_s_chat_app"),
        ("日本語", "ri-ben-yu", "ri_ben_yu"),
        ("🚀", "app", "app"),
        ("3D Chess", "app-3d-chess", "app_3d_chess"),
        (
            "tea and chat " * 12,
            "tea-and-chat-tea-and-chat-tea-and-chat",
            "tea_and_chat_tea_and_chat_tea_and_chat",
        ),
    ],
)
def test_the_slug_is_derived_from_the_name(
    bake: Bake, name: str, slug: str, package_name: str
) -> None:
    project = bake(project_name=name).project_path
    assert project.name == slug
    assert package(project) == package_name


def test_a_slug_keeps_its_own_spelling(bake: Bake) -> None:
    project = bake(project_slug="Chat_Server-2").project_path
    assert package(project) == "chat_server_2"
    assert tomllib.loads(files(project)["pyproject.toml"])["project"]["scripts"] == {
        "Chat_Server-2": "chat_server_2.__main__:main"
    }
