"""Level 0: every project has exactly the files that it should, and nothing odd in them."""

import ast
import html
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

from ..conftest import (
    ALL_OFF,
    ALL_ON,
    ENDPOINTS,
    PACKAGE,
    PLAIN,
    PROJECTS,
    TEMPLATE,
    WITH_REDIS,
    Answers,
    Bake,
    project_params,
)

ALWAYS = """
    .copier-answers.yml .env.example .gitignore .pre-commit-config.yaml AGENTS.md CLAUDE.md
    README.md SECURITY.md pyproject.toml
    docs/api-documents.md docs/deploying.md docs/messages.md docs/metrics.md docs/proxies.md
    docs/security.md docs/updating.md docs/waiting.md
    src/PACKAGE/__init__.py src/PACKAGE/__main__.py src/PACKAGE/main.py src/PACKAGE/settings.py
    src/PACKAGE/endpoints/__init__.py src/PACKAGE/endpoints/health.py
    tests/__init__.py tests/conftest.py tests/test_main.py tests/test_served.py
"""
ONLY_WITH = {
    "include_echo": "src/PACKAGE/endpoints/echo.py tests/test_echo.py",
    "include_json": "src/PACKAGE/endpoints/json_messages.py tests/test_json_messages.py",
    "include_broadcast": """
        src/PACKAGE/endpoints/broadcast.py tests/test_broadcast.py
        docs/rooms.md docs/publishing.md docs/front-end.md docs/assistant.md
    """,
    "broker": "docs/scaling.md",
    "auth": "src/PACKAGE/policy.py tests/test_policy.py docs/tokens.md",
    "include_demo": """
        src/PACKAGE/web/icon.svg src/PACKAGE/web/index.html src/PACKAGE/web/style.css
    """,
    "include_docker": "Dockerfile .dockerignore compose.yaml",
    "license": "LICENSE",
}
CI_FILES = {
    "github": ".github/dependabot.yml .github/workflows/test.yml",
    "gitlab": ".gitlab-ci.yml renovate.json",
    "none": "",
}
PAGE_SCRIPT = "src/PACKAGE/web/page.js"
"""There where the page has an endpoint to show."""
WITHOUT_BROADCAST: Answers = {"broker": "memory"}
"""What these answers come to without rooms."""
ROUTES = {"include_echo": "/ws", "include_json": "/ws_json", "include_broadcast": "/ws_broadcast"}


def files(project: Path) -> dict[str, str]:
    """Return the text of every file in a project, by its path."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes().decode("utf-8")
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def owners_files(project: Path) -> dict[str, str]:
    """Return those of the owner: all but the engine's."""
    return {path: text for path, text in files(project).items() if not path.startswith("packages/")}


def files_by_answers(project: Path) -> dict[str, str]:
    """Return the owner's files but those that are about the answers themselves."""
    about = (".copier-answers.yml", "docs/updating.md")
    return {path: text for path, text in owners_files(project).items() if path not in about}


def package(project: Path) -> str:
    """Return the name of the only package."""
    (name,) = (path.name for path in (project / "src").iterdir())
    return name


@project_params()
def test_the_files_are_exactly_those_that_were_asked_for(project: Path, answers: Answers) -> None:
    wanted = answers if answers["include_broadcast"] else answers | WITHOUT_BROADCAST
    off = (False, "none", "memory")
    chosen = [paths for key, paths in ONLY_WITH.items() if wanted[key] not in off]
    if answers["include_demo"] and any(answers[key] for key in ENDPOINTS):
        chosen.append(PAGE_SCRIPT)
    listed = " ".join([ALWAYS, CI_FILES[answers["ci"]], *chosen]).replace(
        "PACKAGE", package(project)
    )
    assert list(owners_files(project)) == sorted(listed.split())
    assert [path for path in project.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


@project_params()
def test_no_file_shows_that_it_was_rendered(project: Path, answers: Answers) -> None:
    for path, text in owners_files(project).items():
        plain = text.replace("{{ 7*7 }}", "").replace(str(TEMPLATE), "")
        if path.startswith(".github/"):
            plain = re.sub(r"\$\{\{ [\w.]+ \}\}", "", plain)  # GitHub's own
        assert not re.search(r"\{\{|\{%|%\}|\{#|cookiecutter", plain), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert "\r" not in text, path
        assert not re.search(r"[ \t]\n", text), path
        has_python = path.endswith((".py", ".md"))  # two blank lines between functions
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
    main = files(project)[f"src/{package(project)}/main.py"]
    (title,) = re.findall(r"title = (.*)", main)
    assert ast.literal_eval(title) == typed
    if answers["include_demo"]:
        page = files(project)[f"src/{package(project)}/web/index.html"]
        titles = re.findall("<(?:title|h1)>(.*)</", page)
        assert [html.unescape(title) for title in titles] == [typed, typed]
        assert "<script>alert" not in page
    assert "<script>" not in files(project)["README.md"]
    if "author_name" in answers and answers["license"] != "none":
        notice = re.search("Copyright (?:\\(c\\) )?20[0-9]{2} (.*)", files(project)["LICENSE"])
        assert notice is not None
        assert notice[1] == typed


@project_params([*PLAIN, *WITH_REDIS])
def test_the_documents_name_what_is_there_and_nothing_else(project: Path, answers: Answers) -> None:
    everything = files(project)
    documents = {path: text for path, text in owners_files(project).items() if path.endswith(".md")}
    source = f"src/{package(project)}/"
    written_by_their_reader = re.compile(
        r"(endpoints/|tests/test_)(shout|orders|items|kitchen|assistant)\.py|metrics\.py"
    )
    for name, text in documents.items():
        for path in set(re.findall(r"[\w/]+\.py\b", text)):
            if not written_by_their_reader.fullmatch(path):
                assert {path, source + path} & everything.keys(), f"{name} names {path}"
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (project / name).parent.joinpath(link).exists(), f"{name} links to {link}"
        routes = set(re.findall(r"/ws(?:_\w+)?\b", text))
        assert routes <= {route for key, route in ROUTES.items() if answers[key]}, name
    tree = set(re.findall(r"^    (\w+(?:\.py|/)) ", documents["README.md"], re.MULTILINE))
    inside = {path.removeprefix(source) for path in everything if path.startswith(source)}
    assert tree == {"".join(path.partition("/")[:2]) for path in inside} - {"__init__.py"}
    linked = set(re.findall(r"\((docs/[\w-]+\.md)\)", documents["README.md"]))
    assert linked == {path for path in documents if path.startswith("docs/")}


@project_params([*PLAIN, *WITH_REDIS])
def test_a_stranger_reads_little(project: Path, answers: Answers) -> None:
    own = owners_files(project)
    words = {path: len(text.split()) for path, text in own.items() if path.endswith(".md")}
    assert words.pop("README.md") <= 600
    assert words.pop("SECURITY.md") <= 200
    assert max(words.values()) <= 500, words
    code = [text for path, text in own.items() if path.startswith(("src/", "tests/"))]
    assert sum(len(text.splitlines()) for text in code) <= 1600
    around = [path for path in own if not path.startswith(("src/", "tests/", "docs/"))]
    assert len(around) <= 17
    assert len(own) <= (51 if any(answers[key] for key in ENDPOINTS) else 37)


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
    chosen = bake(**{**ALL_ON, "auth": "none", "license": "none"})
    assert files(bake().project_path) == files(chosen.project_path)


@project_params([ALL_ON, {**ALL_OFF, "broker": "redis"}])
def test_without_the_redis_broker_there_is_nothing_of_redis(
    project: Path, answers: Answers
) -> None:
    for path, text in files_by_answers(project).items():
        assert not re.search(r"redis|BROKER_URL", f"{path} {text}", re.IGNORECASE), path


@project_params([{**ALL_ON, "auth": "none"}, {**ALL_OFF, "include_broadcast": True}])
def test_without_tokens_no_code_and_no_setting_names_them(project: Path, answers: Answers) -> None:
    for path, text in files_by_answers(project).items():
        if not path.endswith((".md", ".js")):
            assert not re.search(r"jwt|token(?!_hex)|AUTH_", f"{path} {text}", re.IGNORECASE), path


@project_params([{**ALL_ON, "include_broadcast": False}, ALL_OFF])
def test_without_rooms_no_file_names_them(project: Path, answers: Answers) -> None:
    for path, text in files_by_answers(project).items():
        if not path.endswith((".js", ".css")):
            assert not re.search(r"\brooms?\b|broadcast\b", f"{path} {text}", re.IGNORECASE), path


def test_every_question_has_a_label() -> None:
    context: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    asked = [key for key in context if not key.startswith("_")]
    assert list(context["__prompts__"]) == asked


def test_projects_are_tested_with_the_versions_that_they_and_the_engine_ask_for(
    bake: Bake,
) -> None:
    own = tomllib.loads((TEMPLATE / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    engine = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    rendered = tomllib.loads(files(bake().project_path)["pyproject.toml"])
    needed = {
        *engine["dependencies"],
        *engine["optional-dependencies"]["jwt"],
        *engine["optional-dependencies"]["redis"],
        *rendered["project"]["dependencies"],
        *rendered["dependency-groups"]["dev"],
    }
    assert {each for each in needed if "+vendored" not in each} <= {*own["dev"]}


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
