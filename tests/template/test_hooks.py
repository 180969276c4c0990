"""Answers that are refused, and what a person reads before and after a project is made."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter
from jinja2 import Environment

from ..conftest import ALL_OFF, TEMPLATE, Answers, Bake


@pytest.mark.parametrize(
    ("slug", "rule", "example"),
    [
        ("class", 'would make the package "class", which is a Python keyword', "class-app"),
        ("Import", 'would make the package "import", which is a Python keyword', "import-app"),
        ("json", "is a module of Python itself", "json-app"),
        ("fastapi", "is a name that the project itself needs", "fastapi-app"),
        ("pydantic-settings", "is a name that the project itself needs", "pydantic-settings-app"),
        ("tests", "is a name that the project itself needs", "tests-app"),
        ("fastapi-realtime", "is a name that the project itself needs", "fastapi-realtime-app"),
        ("my app", "must begin with a letter", "my-app-app"),
        ("2fast", "must begin with a letter", "fast-app"),
        ("chat--app", "must begin with a letter", "chat-app-app"),
        ("chat-", "must begin with a letter", "chat-app"),
        ("café", "must begin with a letter", "caf-app"),
        ("日本語", "must begin with a letter", "chat-app"),
        ("x" * 51, "has 51 characters, and at most 50 are possible", f"{'x' * 46}-app"),
    ],
)
def test_a_slug_that_cannot_work_is_refused(
    bake: Bake, capfd: pytest.CaptureFixture[str], slug: str, rule: str, example: str
) -> None:
    assert bake(project_slug=slug).exit_code != 0
    said = capfd.readouterr().err
    assert f"project_slug {ascii(slug)}" in said
    assert rule in said
    assert f"try '{example}'" in said
    assert bake(project_slug=example).exit_code == 0


BIDIRECTIONAL = [*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]
BIDIRECTIONAL += ["\u200e", "\u200f", "\u061c"]


def test_a_slug_may_be_any_name_that_the_project_does_not_need(bake: Bake) -> None:
    assert bake(project_slug="redis").exit_code == 0
    assert bake(project_slug="playwright").exit_code == 0


@pytest.mark.parametrize("field", ["project_name", "description", "author_name"])
@pytest.mark.parametrize(
    "character", ["\n", "\t", "\x1b", "\x7f", "\u2028", "\udc80", "\uffff", *BIDIRECTIONAL]
)
def test_a_control_character_is_refused(
    bake: Bake, capfd: pytest.CaptureFixture[str], field: str, character: str
) -> None:
    assert bake(**{field: f"a{character}b"}).exit_code != 0
    said = capfd.readouterr().err
    assert f"{field} {ascii(f'a{character}b')} has a control character" in said


def test_a_project_needs_a_name(bake: Bake, capfd: pytest.CaptureFixture[str]) -> None:
    assert bake(project_name=" ").exit_code != 0
    assert "project_name is empty; try 'Chat App'" in capfd.readouterr().err


def test_all_problems_are_named_at_once(bake: Bake, capfd: pytest.CaptureFixture[str]) -> None:
    assert bake(project_slug="class", author_name="a\tb").exit_code != 0
    said = capfd.readouterr().err
    assert "project_slug" in said
    assert "author_name" in said


def refused(*command: str | Path, folder: Path) -> str:
    """Run cookiecutter, which must refuse and leave nothing behind; return what it says."""
    done = subprocess.run(
        [*command, TEMPLATE, "--no-input", "-o", folder, "include_demo=no"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert list(folder.iterdir()) == []
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.6.0", "2.1.1", "1.7.3"])
def test_an_older_cookiecutter_is_refused(tmp_path: Path, version: str) -> None:
    command = ("uv", "run", "--no-project", "--with", f"cookiecutter=={version}", "cookiecutter")
    said = refused(*command, folder=tmp_path)
    assert "neither true nor false" in said
    assert "use 2.7 or later: `uvx cookiecutter@latest`" in said


def said_by_hook(path: Path, **answers: Any) -> str:
    """Run the hook with answers that only an older cookiecutter makes; return what it says."""
    context = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    context |= {"project_slug": "my-websocket-app", "broker": "memory", "auth": "none"} | answers
    hook = (TEMPLATE / "hooks/pre_gen_project.py").read_text("utf-8")
    path.write_text(Environment().from_string(hook).render(cookiecutter=context), "utf-8")
    done = subprocess.run(
        [sys.executable, path], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode != 0
    return done.stderr


def test_an_answer_that_is_a_text_is_no_boolean(tmp_path: Path) -> None:
    said = said_by_hook(tmp_path / "hook.py", include_demo="False")
    assert "include_demo is the text 'False', neither true nor false.\n" in said
    assert "use 2.7 or later" in said


def test_a_derived_value_with_template_code_is_refused(tmp_path: Path) -> None:
    said = said_by_hook(tmp_path / "hook.py")
    assert '__package_name is "{{ cookiecutter.project_slug | lower' in said
    assert "use 2.7 or later" in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("__package_name", "evil"),
        ("__redis", "yes"),
        ("__extras", "[jwt]"),
        ("__year", "soon"),
        ("_new_lines", "\r\n"),
        ("_jinja2_env_vars", {"trim_blocks": True, "lstrip_blocks": False}),
    ],
)
def test_a_derived_value_from_a_users_configuration_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"default_context": {field: value}}), "utf-8")  # JSON is YAML
    folder = tmp_path / "projects"
    folder.mkdir()
    command = (sys.executable, "-m", "cookiecutter", "--config-file", config)
    said = refused(*command, folder=folder)
    assert f"\n{field} is " in said
    assert "the answers make it" in said
    assert "Remove such values from the default_context of your configuration" in said


def test_a_replay_keeps_the_year_of_the_license(tmp_path: Path) -> None:
    context = {"default_context": {"__year": "2020", "license": "MIT"}}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(context), "utf-8")
    project = cookiecutter(
        str(TEMPLATE), no_input=True, output_dir=str(tmp_path), config_file=str(config)
    )
    assert "Copyright (c) 2020 " in Path(project, "LICENSE").read_text("utf-8")


def test_the_hook_knows_every_derived_value() -> None:
    hook = (TEMPLATE / "hooks/pre_gen_project.py").read_text("utf-8")
    asked = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    derived = {key for key in asked if key.startswith("_")} - {"__prompts__"}
    assert set(re.findall(r'^        "(_\w+)": ', hook, re.MULTILINE)) == derived


def test_the_next_steps_are_in_the_users_own_names(
    bake: Bake, capfd: pytest.CaptureFixture[str]
) -> None:
    bake(project_slug="tea-time", auth="jwt")
    said = capfd.readouterr().out
    assert "cd tea-time\n    uv run tea-time key >> .env\n    uv run tea-time\n" in said
    assert "uv run tea-time talk /ws\n" in said
    assert "\n\n\n" not in said.strip("\n")


@pytest.mark.parametrize(
    ("answers", "paths"),
    [
        ({}, ["/ws"]),
        ({"include_echo": False}, ["/ws_json"]),
        ({**ALL_OFF, "include_broadcast": True}, ["/ws_broadcast"]),
        (ALL_OFF, []),
    ],
)
def test_the_next_steps_talk_to_an_endpoint_that_is_there(
    bake: Bake, capfd: pytest.CaptureFixture[str], answers: Answers, paths: list[str]
) -> None:
    bake(**answers)
    said = capfd.readouterr().out
    assert re.findall(r"uv run my-websocket-app talk (\S+)", said) == paths
    assert "\n\n\n" not in said.strip("\n")


def test_the_next_steps_name_the_page(bake: Bake, capfd: pytest.CaptureFixture[str]) -> None:
    bake()
    assert "uv run my-websocket-app\n\nThen open http://127.0.0.1:8000/" in capfd.readouterr().out
    bake(project_slug="no-page", include_demo=False)
    assert "browser" not in capfd.readouterr().out


def test_a_package_may_not_hide_the_redis_that_it_needs(
    bake: Bake, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bake(project_slug="redis", broker="redis").exit_code != 0
    assert "is a name that the project itself needs" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"broker": "redis"}, "redis://127.0.0.1:6379/0"),
        ({**ALL_OFF, "broker": "redis"}, "the answer broker=redis has no effect"),
    ],
)
def test_the_next_steps_say_what_the_broker_needs(
    bake: Bake, capfd: pytest.CaptureFixture[str], answers: Answers, said: str
) -> None:
    bake(**answers)
    text = capfd.readouterr().out
    assert said in text
    assert "\n\n\n" not in text.strip("\n")


def test_the_folder_of_a_page_that_is_off_is_removed_unless_it_holds_a_file(
    bake: Bake, tmp_path: Path
) -> None:
    assert not (bake(**ALL_OFF).project_path / "src/my_websocket_app/web").exists()
    kept = tmp_path / "my-websocket-app/src/my_websocket_app/web/mine.html"
    kept.parent.mkdir(parents=True)
    kept.touch()
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context=ALL_OFF,
        output_dir=str(tmp_path),
        overwrite_if_exists=True,
        default_config=True,
    )
    assert kept.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_project_is_made_although_nobody_reads_the_next_steps(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input", "-o", tmp_path]
    with Path("/dev/full").open("w") as full:
        subprocess.run(command, stdout=full, check=True)
    assert (tmp_path / "my-websocket-app/README.md").exists()
