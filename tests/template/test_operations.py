"""Level 0: licenses, and the files for containers and CI, as those who read them would judge."""

import hashlib
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import (
    ALL_OFF,
    ALL_ON,
    CI,
    LICENSES,
    PROJECTS,
    TEMPLATE,
    WITH_REDIS,
    Answers,
    Bake,
    describe,
    project_params,
    run,
)
from .test_rendering import files

linux = pytest.mark.skipif(sys.platform != "linux", reason="the linters are installed on Linux")

TEXTS = {
    "MIT": "7c9b48b52decb9837c70f608678129e1ac79e056829c8d1e82e8cdd8aed562f8",
    "Apache-2.0": "0649bc87ac07c40d996369e9e058b11734e3eedb25ae8be9e6293f1efb340353",
    "BSD-3-Clause": "77bebd765dc6e78c3feb4e9856b5d733a736a0ce9621764f9a604daf488d6941",
}
"""SHA-256 of each license's official text, without white space and the line of its copyright."""

Rendered = Callable[[Answers], Path]


def fingerprint(text: str) -> str:
    """Return what identifies the words of a license."""
    words = re.sub(r"^ *Copyright (\(c\) 2|2|\[yyyy).*$", "", text, flags=re.MULTILINE).split()
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def all_projects(rendered: Rendered, path: str) -> list[Path]:
    """Return a file of each project that has it, and each text once."""
    found = [rendered(answers) / path for answers in PROJECTS]
    return list({file.read_bytes(): file for file in found if file.exists()}.values())


def lint(tool: str, *arguments: str | Path) -> None:
    """Run a linter, which must find nothing."""
    command = shutil.which(tool, path=str(Path(sys.executable).parent))
    assert command, f"{tool} is not installed"
    run(command, *arguments, cwd=TEMPLATE)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says."""
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # `on` stays a text


@pytest.mark.parametrize("license", LICENSES[1:])
def test_a_license_is_the_official_text_with_year_and_author(
    rendered: Rendered, license: str
) -> None:
    project = rendered({**ALL_ON, "license": license, "author_name": "Zoë <z@x>"})
    text = files(project)["LICENSE"]
    assert fingerprint(text) == TEXTS[license]
    assert len(re.findall(r"Copyright (?:\(c\) )?20\d\d Zoë <z@x>\n", text)) == 1
    metadata = tomllib.loads(files(project)["pyproject.toml"])["project"]
    assert (metadata["license"], metadata["license-files"]) == (license, ["LICENSE"])


def test_without_a_license_nothing_claims_one(bake: Bake) -> None:
    metadata = tomllib.loads(files(bake().project_path)["pyproject.toml"])["project"]
    assert not {"license", "license-files"} & metadata.keys()


@linux
def test_workflows_have_no_finding(rendered: Rendered) -> None:
    workflows = all_projects(rendered, ".github/workflows/test.yml")
    workflows.append(TEMPLATE / ".github/workflows/test.yml")
    assert len(workflows) >= 4  # with tokens, without them, and without an image
    lint("actionlint", "-shellcheck", shutil.which("shellcheck") or "shellcheck", *workflows)
    updates = all_projects(rendered, ".github/dependabot.yml")
    lint("zizmor", "--offline", "--no-progress", "--pedantic", *workflows, *updates)
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


@linux
@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (".github/dependabot.yml", "dependabot"),
        (".gitlab-ci.yml", "gitlab-ci"),
        ("renovate.json", "renovate"),
        ("compose.yaml", "compose-spec"),
    ],
)
def test_files_fit_their_schemas(rendered: Rendered, path: str, schema: str) -> None:
    found = all_projects(rendered, path)
    assert found
    lint("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *found)


@linux
def test_dockerfiles_have_no_finding(rendered: Rendered) -> None:
    lint("hadolint", *all_projects(rendered, "Dockerfile"))


@pytest.mark.parametrize("answers", [ALL_ON, *WITH_REDIS], ids=describe)
def test_actions_are_pinned_by_commit_and_see_no_credentials(
    project: Path, answers: Answers
) -> None:
    for path in (TEMPLATE, project):
        for workflow in (path / ".github/workflows").glob("*.yml"):
            text = workflow.read_text("utf-8")
            for action in re.findall(r"uses: (.*)", text):
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
            assert text.count("persist-credentials: false") == text.count("actions/checkout@")
            assert read_yaml(workflow)["permissions"] == {"contents": "read"}
            for job in read_yaml(workflow)["jobs"].values():
                assert job["timeout-minutes"]


def test_the_templates_own_workflow_runs_one_script_and_lets_one_job_write() -> None:
    jobs = read_yaml(TEMPLATE / ".github/workflows/test.yml")["jobs"]
    for name in ("linux", "lowest", "newest"):
        assert ".ci/run" in str(jobs[name]["steps"])
    assert [name for name in jobs if "permissions" in jobs[name]] == ["report"]
    assert not [step for step in jobs["report"]["steps"] if "uses" in step]


@project_params([answers for answers in PROJECTS if answers["ci"] != "none"])
def test_ci_runs_the_commands_of_the_readme(project: Path, answers: Answers) -> None:
    github = answers["ci"] == "github"
    workflow = read_yaml(project / (".github/workflows/test.yml" if github else ".gitlab-ci.yml"))
    jobs = workflow["jobs"] if github else workflow
    steps = (
        [step.get("run") for step in jobs["test"]["steps"]] if github else jobs["test"]["script"]
    )
    wanted = ["uv run ruff check", "uv run ruff format --check", "uv run ty check"]
    assert [step for step in steps if step in wanted] == wanted
    assert "uv run pytest --cov" in steps
    commands = {command.removesuffix(" --check") for command in wanted} | {"uv run pytest"}
    readme = files(project)["README.md"]
    assert commands <= set(readme.splitlines())
    matrix = jobs["test"]["strategy"]["matrix"] if github else jobs["test"]["parallel"]["matrix"][0]
    assert matrix["python" if github else "PYTHON"] == ["3.11", "3.14"]
    assert ("image" if github else "image-test") in jobs or not answers["include_docker"]
    assert "up --wait" in str(jobs) or not answers["include_docker"]


def test_hooks_before_a_commit_run_the_tools_of_the_project(bake: Bake) -> None:
    hooks = read_yaml(bake().project_path / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [
        *("uv run ruff check", "uv run ruff format", "uv run ty check"),
    ]


def test_updates_wait_a_week(rendered: Rendered) -> None:
    for path in all_projects(rendered, ".github/dependabot.yml"):
        updates = read_yaml(path)["updates"]
        assert {update["cooldown"]["default-days"] for update in updates} == {"7"}
        kinds = {update["package-ecosystem"] for update in updates}
        assert {"uv", "github-actions"} <= kinds
    for path in all_projects(rendered, "renovate.json"):
        assert json.loads(path.read_text("utf-8"))["minimumReleaseAge"] == "7 days"


@project_params([answers for answers in PROJECTS if answers["include_docker"]])
def test_services_are_checked_and_reachable_as_they_should(project: Path, answers: Answers) -> None:
    services = read_yaml(project / "compose.yaml")["services"]
    redis = answers["broker"] == "redis" and answers["include_broadcast"]
    assert services.keys() == ({"app", "caddy", "redis"} if redis else {"app"})
    dockerfile = files(project)["Dockerfile"]
    assert "HEALTHCHECK" in dockerfile  # the app's
    assert all("healthcheck" in services[name] for name in services.keys() - {"app"})
    published = {name for name, service in services.items() if "ports" in service}
    assert published == ({"caddy"} if redis else {"app"})
    grace = int(services["app"]["stop_grace_period"].removesuffix("s"))
    (drain,) = re.findall(r"APP_DRAIN_SECONDS=(\d+)", dockerfile)
    assert int(drain) < 10 < grace
    assert ("APP_DEMO=false" in dockerfile) == answers["include_demo"]
    if redis:
        assert services["app"]["deploy"]["replicas"] == "2"
        advised = files(project)["docs/scaling.md"]
        told = dict(zip(*[iter(services["redis"]["command"][1:])] * 2, strict=True))
        for name, value in told.items():
            assert f"\n{name.removeprefix('--')} {value}\n" in advised
        assert "--appendonly" in told
        assert any(volume.endswith(":/data") for volume in services["redis"]["volumes"])


@project_params([ALL_ON, ALL_OFF, *WITH_REDIS])
def test_the_manifest_for_kubernetes_waits_and_probes(project: Path, answers: Answers) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", files(project)["docs/deploying.md"], re.DOTALL)
    deployment = yaml.safe_load(block)
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    assert (deployment["spec"]["replicas"] > 1) == (answers["broker"] == "redis")
    (drain,) = re.findall(r"# APP_DRAIN_SECONDS=(\d+)", files(project)[".env.example"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > int(drain)
    (container,) = pod["spec"]["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {8000}
    assert re.fullmatch(r"[a-z0-9-]+", deployment["metadata"]["name"])


@pytest.mark.parametrize("ci", CI)
def test_an_agent_is_told_the_border_and_the_commands(bake: Bake, ci: str) -> None:
    project = bake(ci=ci).project_path
    text = files(project)["AGENTS.md"]
    assert files(project)["CLAUDE.md"] == "@AGENTS.md\n"
    assert len(text.splitlines()) <= 45
    for word in ("packages/fastapi-realtime/", "uv run pytest", "uv run ty check", "Admitted["):
        assert word in text
    assert ("CI runs them" in text) == (ci != "none")
