"""Level 2: AsyncAPI's own tools take the documents of projects."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import PLAIN, WITH_REDIS, Bake, run
from .test_rendering import package

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from fastapi_realtime import asyncapi_document
from fastapi_realtime.testing import make_settings
from {package}.main import create_app
from {package}.settings import Settings

app = create_app(make_settings(Settings))
print(json.dumps(asyncapi_document(app)), file=open(sys.argv[1], "w"))
"""


TYPED = """
import { ClientMessage } from './types/ClientMessage';
import { PresenceEvent } from './types/PresenceEvent';

export const message: ClientMessage = { type: 'message', data: { price: 3 }, ref: '1' };
export const left = (event: PresenceEvent): string => `${event.type} ${event.sender}`;
"""


def test_the_documents_are_valid(bake: Bake, tmp_path: Path) -> None:
    install("@asyncapi/parser@3", folder=tmp_path)
    documents = []
    for number, answers in enumerate([*PLAIN, *WITH_REDIS]):
        documents.append(tmp_path / f"{number}.json")
        write_document(bake(**answers).project_path, documents[-1])
    check = Path(__file__).with_name("check_asyncapi.mjs")
    run("node", check, tmp_path, *documents, cwd=tmp_path)


def test_typescript_types_are_made_from_a_document(bake: Bake, tmp_path: Path) -> None:
    install("@asyncapi/modelina-cli@5", "typescript@5", folder=tmp_path)
    project = bake(auth="jwt").project_path
    write_document(project, tmp_path / "asyncapi.json")
    documented = (project / "docs/api-documents.md").read_text("utf-8")
    (command,) = re.findall(r"npx (@asyncapi/modelina-cli .*)\\\n(.*)", documented)
    arguments = " ".join(command).replace("http://127.0.0.1:8000/", "").split()
    run("npx", *arguments, cwd=tmp_path)
    compile_strictly = ("npx", "tsc", "--noEmit", "--strict", "typed.ts")
    (tmp_path / "typed.ts").write_text(TYPED, "utf-8")
    run(*compile_strictly, cwd=tmp_path)
    (tmp_path / "typed.ts").write_text(TYPED.replace("data:", "date:"), "utf-8")
    with pytest.raises(AssertionError, match="'date' does not exist in type 'ClientMessage'"):
        run(*compile_strictly, cwd=tmp_path)


def install(*packages: str, folder: Path) -> None:
    """Install packages of Node, if it is here."""
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no npm")
        pytest.skip("there is no npm")
    (folder / "package.json").write_text("{}", "utf-8")
    options = ("--no-audit", "--no-fund", "--ignore-scripts")
    run(npm, "install", *options, *packages, cwd=folder)


def write_document(project: Path, document: Path) -> None:
    """Write the AsyncAPI document of a project."""
    path = os.pathsep.join(["src", os.environ["PYTHONPATH"]])
    script = SCRIPT.format(package=package(project))
    run(sys.executable, "-c", script, document, cwd=project, PYTHONPATH=path)
