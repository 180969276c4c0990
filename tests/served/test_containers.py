"""Level 2: the image of a project, made and run by hand, since no container engine is needed for that.

A Dockerfile is followed line by line in a folder that stands for the root of the image. What its
commands are told and what they find is what they would in a container, but for the Python.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ..conftest import Bake, run
from .test_served import started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="images are made for Linux"),
]

NOBODY = 10001
DOWNLOADS = {
    key: value
    for key, value in os.environ.items()
    if key.startswith(("SSL_", "UV_", "http", "HTTP", "no_proxy", "NO_PROXY"))
    and key not in ("UV_PYTHON", "UV_RESOLUTION")
}
"""How this machine reaches packages."""


@dataclass
class Image:
    """What the last stage of a Dockerfile comes to."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    command: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    copied_from: list[str] = field(default_factory=list)

    def within(self, text: str) -> str:
        """Name paths as they are here."""
        return text.replace("/app", f"{self.root}/app")

    @property
    def variables(self) -> dict[str, str]:
        """The environment that its processes get, and nothing else."""
        return {"PATH": os.defpath} | self.environment

    def how(self) -> dict[str, Any]:
        """Return how its processes are started: as its user, where there is a choice."""
        uid, _, gid = self.user.partition(":")
        assert int(uid)
        assert int(gid)
        identity = {"user": int(uid), "group": int(gid), "extra_groups": []}
        return {
            "cwd": self.within(self.folder),
            "env": self.variables,
            **(identity if os.geteuid() == 0 else {}),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of its own."""
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, **self.how()
        )


def usable_python() -> str:
    """Return the newest Python that anybody on this machine may run."""
    for request in ("3.14", "3.13", "3.12", "3.11", "/usr/bin/python3"):
        found = subprocess.run(
            ["uv", "python", "find", "--no-python-downloads", "--no-project", request],
            capture_output=True,
            text=True,
            check=False,
        )
        path = Path(found.stdout.strip()).resolve()
        if found.returncode == 0 and (
            os.geteuid() or all(parent.stat().st_mode & 1 for parent in path.parents)
        ):
            return str(path)
    pytest.skip("there is no Python that another user may run")


def instructions(project: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile."""
    text = (project / "Dockerfile").read_text("utf-8")
    assert text.startswith("# syntax=docker/dockerfile:1\n")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def context_files(project: Path, pattern: str) -> list[Path]:
    """Return what a pattern finds in the context, which is what .dockerignore leaves."""
    lines = (project / ".dockerignore").read_text("utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert lines[0] == "*"  # so all others, such as .env, stay outside
    allowed = {line[1:] for line in lines if line.startswith("!")}
    found = list(project.glob(pattern))
    assert found or "*" in pattern, f"nothing to COPY: {pattern}"
    for path in found:
        assert path.relative_to(project).as_posix() in allowed, f".dockerignore leaves out {path}"
    return found


def build(project: Path, folder: Path) -> Image:
    """Do what the Dockerfile says."""
    stages: dict[str, Path] = {}
    image = Image(folder / "root")
    name = ""
    for word, rest in instructions(project):
        if word == "FROM":
            assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+( AS \w+)?", rest)
            if name:
                stages[name] = image.root.rename(folder / name)
            name = rest.partition(" AS ")[2]
            image = Image(folder / "root")
            image.root.mkdir()
        elif word == "COPY":
            copy(project, image, stages, rest)
        elif word == "ENV":
            for key, value in re.findall(r"(\w+)=(\S+)", rest):
                old = image.variables["PATH"]
                image.environment[key] = image.within(value).replace("$PATH", old)
        elif word == "WORKDIR":
            image.folder = rest
            Path(image.within(rest)).mkdir(parents=True, exist_ok=True)
        elif word == "RUN":
            uv = Path(shutil.which("uv") or "uv").parent
            tools = {
                "PATH": f"{uv}:{os.defpath}",
                "HOME": str(folder),
                "UV_PYTHON": usable_python(),
            }
            where = Path(image.within(image.folder))
            done = subprocess.run(
                ["sh", "-c", rest],
                cwd=where,
                env=DOWNLOADS | image.environment | tools,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        elif word == "USER":
            image.user = rest
        elif word == "HEALTHCHECK":
            image.check = json.loads(rest[rest.index("[") :])
        elif word == "CMD":
            image.command = json.loads(rest)
        else:
            assert word == "EXPOSE"
    run("chmod", "-R", "a+rX,a-w", image.root, cwd=folder)
    return image


def copy(project: Path, image: Image, stages: dict[str, Path], rest: str) -> None:
    """Do what COPY says."""
    *sources, target = rest.split()
    if sources[0].startswith("--from="):
        stage = sources.pop(0).removeprefix("--from=")
        image.copied_from.append(stage)
        if stage not in stages:
            assert re.fullmatch(r"ghcr\.io/astral-sh/uv:\d+\.\d+\.\d+", stage)
            return
        assert sources == [target]  # an environment works only where it was made
        shutil.copytree(f"{stages[stage]}{target}", image.within(target), symlinks=True)
        return
    where = Path(image.within(image.folder)) / target
    for source in sources:
        for path in context_files(project, source):
            if path.is_dir():
                shutil.copytree(path, where)
            else:
                shutil.copy(path, where)


@contextmanager
def folder_for_anybody() -> Generator[Path]:
    """Make a folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            run("chmod", "-R", "u+w", folder, cwd=folder)


@pytest.mark.parametrize(
    ("answers", "has_lock"),
    [
        ({}, False),
        ({"auth": "jwt", "broker": "redis", "license": "MIT", "include_demo": False}, True),
    ],
    ids=str,
)
def test_the_image_is_made_without_and_with_a_lock_file_and_runs(
    bake: Bake, answers: dict[str, str], has_lock: bool
) -> None:
    project = bake(**answers).project_path
    if has_lock:
        run("uv", "lock", cwd=project, PYTHONPATH="")
    with folder_for_anybody() as folder:
        image = build(project, folder)
        assert (project / "uv.lock").exists() == has_lock
        assert image.copied_from == ["build"]  # no uv, and no source, in what runs
        assert os.listdir(f"{image.root}/app") == [".venv"]
        packages = image.run("python", "-c", "import fastapi_realtime as f; print(f.__file__)")
        assert packages.stdout.startswith(f"{image.root}/app/.venv/lib/"), packages.stderr
        serve_and_stop(image, answers)


def serve_and_stop(image: Image, answers: dict[str, str]) -> None:
    """Start the server, ask its health, talk to it and stop it, all as Docker would."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    more = {"PORT": port}
    if answers.get("auth") == "jwt":
        key = image.run(*image.command, "key").stdout.strip()
        more["APP_AUTH_KEY"] = key.removeprefix("APP_AUTH_KEY=")
    if answers.get("broker") == "redis":
        more["APP_BROKER_URL"] = "memory://"
    image.environment |= more
    assert image.run(*image.check).returncode != 0  # nobody is there yet
    with started(image.command, **image.how()) as (where, server):
        assert where == f"0.0.0.0:{port}"
        checked = image.run(*image.check)
        assert checked.returncode == 0, checked.stderr
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{port}/", timeout=10)  # no page
        with connect_to(image, port) as client:
            server.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=20)
            assert client.close_code == 1012
        said, _ = server.communicate(timeout=10)
        # uvicorn raises the signal again at its end; as process 1 of a container it survives that: 0.
        assert server.returncode in (0, -signal.SIGTERM), said
        assert "Traceback" not in said
    assert image.run(*image.check).returncode != 0


def connect_to(image: Image, port: str) -> ClientConnection:
    """Connect, with a token where one is needed."""
    headers = {}
    if "APP_AUTH_KEY" in image.environment:
        token = image.run(*image.command, "token", "zoe").stdout.strip()
        headers["Authorization"] = f"Bearer {token}"
    return connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None)


def test_a_lock_file_that_does_not_fit_stops_the_build(bake: Bake) -> None:
    project = bake().project_path
    run("uv", "lock", cwd=project, PYTHONPATH="")
    metadata = project / "pyproject.toml"
    text = metadata.read_text("utf-8")
    metadata.write_text(text.replace('    "fastapi>=', '    "rich",\n    "fastapi>='), "utf-8")
    with folder_for_anybody() as folder, pytest.raises(AssertionError, match="needs to be updated"):
        build(project, folder)
