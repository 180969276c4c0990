"""Level 2: AsyncAPI's own tools take the documents of projects."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import PLAIN, TEMPLATE, WITH_REDIS, Bake, run

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from fastapi_realtime import asyncapi_document
from fastapi_realtime.testing import make_settings

for project in sys.argv[1:]:
    sys.path[0] = f"{project}/src"
    from my_websocket_app.main import create_app
    from my_websocket_app.settings import Settings

    app = create_app(make_settings(Settings))
    print(json.dumps(asyncapi_document(app)), file=open(f"{project}/asyncapi.json", "w"))
    for name in [name for name in sys.modules if name.startswith("my_websocket_app")]:
        del sys.modules[name]
"""


TYPED = """
import { ClientMessage } from './types/ClientMessage';
import { PresenceEvent } from './types/PresenceEvent';

export const message: ClientMessage = { type: 'message', data: { price: 3 }, ref: '1' };
export const left = (event: PresenceEvent): string => `${event.type} ${event.sender}`;
"""


def test_the_documents_are_valid(bake: Bake, tmp_path: Path) -> None:
    install("@asyncapi/parser@3", folder=tmp_path)
    documents = write_documents(
        *(bake(**answers).project_path for answers in [*PLAIN, *WITH_REDIS])
    )
    check = Path(__file__).with_name("check_asyncapi.mjs")
    run("node", check, tmp_path, *documents, cwd=tmp_path)


def test_typescript_types_are_made_from_a_document(bake: Bake, tmp_path: Path) -> None:
    install("@asyncapi/modelina-cli@5", "typescript@5", folder=tmp_path)
    project = bake(auth="jwt").project_path
    shutil.copy(*write_documents(project), tmp_path)
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
    options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
    run(npm, "install", *options, *packages, cwd=folder)


def write_documents(*projects: Path) -> list[Path]:
    """Write the AsyncAPI document of each project into its folder."""
    run(sys.executable, "-c", SCRIPT, *projects, cwd=TEMPLATE)
    return [project / "asyncapi.json" for project in projects]
