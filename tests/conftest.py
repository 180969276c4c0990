"""Projects, rendered from this template, and what can be asked of them."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter
from pytest_cookies.plugin import Cookies, Result

TEMPLATE = Path(__file__).parents[1]
PACKAGE = TEMPLATE / "{{cookiecutter.project_slug}}/packages/fastapi-realtime"
"""The engine, which has no template code in it and is tested where it stands."""

# For this process and those that tests start. Whatever is in the template's folder gets rendered,
# so Python must not put its caches there; without caches, each process would take seconds to start.
sys.pycache_prefix = str(TEMPLATE / ".pytest_cache/pycache")
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {"PYTHONPATH": str(PACKAGE / "src"), "PYTHONPYCACHEPREFIX": sys.pycache_prefix}
if "PYTEST_XDIST_WORKER" not in os.environ:  # caches of folders that earlier runs have made
    shutil.rmtree(f"{sys.pycache_prefix}{tempfile.gettempdir()}", ignore_errors=True)
QUESTIONS = {
    key
    for key in json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    if not key.startswith("_")
}
ENDPOINTS = ("include_echo", "include_json", "include_broadcast")
AUTH = ("none", "jwt")
BROKERS = ("memory", "redis")
CI = ("github", "gitlab", "none")
LICENSES = ("none", "MIT", "Apache-2.0", "BSD-3-Clause")

Answers = dict[str, Any]
Bake = Callable[..., Result]

COMBINATIONS: list[Answers] = [
    dict(zip(ENDPOINTS, choice, strict=True))
    for choice in itertools.product([True, False], repeat=len(ENDPOINTS))
]


def around(index: int) -> Answers:
    """Return answers about what is around the code; those of two projects in a row differ."""
    return {
        "include_docker": index % 5 < 3,
        "ci": CI[index % 3],
        "license": LICENSES[index % 4],
    }


ALL_ON: Answers = {
    **COMBINATIONS[0],
    **{"auth": "jwt", "broker": "memory", "include_demo": True},
    **{"include_docker": True, "ci": "github", "license": "MIT"},
}
ALL_OFF: Answers = {
    **COMBINATIONS[-1],
    **{"auth": "none", "broker": "memory", "include_demo": False},
    **{"include_docker": False, "ci": "none", "license": "none"},
}

# Cookiecutter renders the answers that it is given this way, hence the quotes around braces.
HOSTILE_TEXTS = [
    'Zoë\'s "Chat" \\ App',
    "日本語",
    "🚀",
    "{{ '{{ 7*7 }}' }}",
    "<script>alert('1')</script>",
    "a: b # c",
    "it ends with \\",
    "x" * 200,
]


def hostile(text: str, **answers: Any) -> Answers:
    """Give the same answer to every question that takes any text."""
    return {"project_name": text, "description": text, "author_name": text, **answers}


# Each combination of endpoints meets a hostile text, each endpoint both kinds of admission and
# projects with and without the demo, and each broker all of these. Containers, CI and licenses take
# turns.
COVERING: list[Answers] = [
    hostile(
        text,
        **combination,
        auth=AUTH[sum(combination.values()) % 2 == 0],
        broker=BROKERS[index % 2],
        include_demo=index // 2 % 2 == 0,
        **around(index + 1),
    )
    for index, (text, combination) in enumerate(zip(HOSTILE_TEXTS, COMBINATIONS, strict=True))
]
PLAIN: list[Answers] = [
    {
        **combination,
        "auth": auth,
        "broker": "memory",
        "include_demo": (index // 2 % 2 == 0) == (auth == "jwt"),
        **around(2 * index + (auth == "jwt")),
    }
    for index, combination in enumerate(COMBINATIONS)
    for auth in AUTH
]
WITH_REDIS: list[Answers] = [
    {
        **COMBINATIONS[0],
        **{"auth": auth, "broker": "redis", "include_demo": auth == "jwt"},
        **{"include_docker": True, "ci": ci, "license": "BSD-3-Clause"},
    }
    for auth, ci in zip(AUTH, CI, strict=False)
]
PROJECTS = [*PLAIN, *WITH_REDIS, *COVERING]
INSTALLED: list[Answers] = [{**ALL_ON, "broker": "redis"}, ALL_OFF]
"""Projects that are tested in environments of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(1200))


def describe(answers: Answers) -> str:
    """Name a project in the list of tests."""
    chosen = [key.removeprefix("include_") for key in ENDPOINTS if answers.get(key, True)]
    name = ascii(answers.get("project_name", ""))[1:17]
    broker = "redis" if answers.get("broker") == "redis" else ""
    demo = "demo" if answers.get("include_demo", True) else ""
    docker = "docker" if answers.get("include_docker", True) else ""
    words = ["+".join(chosen) or "nothing", answers.get("auth", ""), broker, demo, docker]
    words += [answers.get("ci", ""), answers.get("license", ""), name]
    return " ".join(filter(None, words))


def project_params(projects: list[Answers] = PROJECTS) -> pytest.MarkDecorator:
    """Run a test for each of these projects."""
    return pytest.mark.parametrize("answers", projects, ids=describe)


@pytest.fixture
def bake(cookies: Cookies) -> Bake:
    """Render a project; an answer to a question that is not asked is a mistake in the test."""

    def bake(**answers: Any) -> Result:
        assert answers.keys() <= QUESTIONS, f"not asked: {answers.keys() - QUESTIONS}"
        return cookies.bake(extra_context=answers)

    return bake


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Answers], Path]:
    """Render a project for each set of answers once, for tests that only read it."""
    known: dict[str, Path] = {}

    def rendered(answers: Answers) -> Path:
        key = json.dumps(answers)
        if key not in known:
            folder = tmp_path_factory.mktemp("rendered")
            known[key] = Path(
                cookiecutter(
                    str(TEMPLATE),
                    no_input=True,
                    extra_context=answers,
                    output_dir=str(folder),
                    default_config=True,
                )
            )
        return known[key]

    return rendered


@pytest.fixture
def project(rendered: Callable[[Answers], Path], answers: Answers) -> Path:
    """The folder of a project rendered with these answers, to be read only."""
    assert answers.keys() <= QUESTIONS, f"not asked: {answers.keys() - QUESTIONS}"
    return rendered(answers)


@pytest.fixture
def own_project(bake: Bake, answers: Answers) -> Path:
    """The folder of a project rendered with these answers for this test alone."""
    result = bake(**answers)
    assert result.exception is None
    assert result.project_path is not None
    return result.project_path


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command that must succeed; show what it said if it doesn't."""
    outer = {
        key: value for key, value in os.environ.items() if not key.startswith(("COV_", "PYTEST_"))
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=outer | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{command} says:\n{done.stdout}"


def run_module(module: str, *arguments: str, cwd: Path) -> None:
    """Run one of the tools of this environment."""
    run(sys.executable, "-m", module, *arguments, cwd=cwd, PYTHONUTF8="1")
