"""Level 2: AsyncAPI's own parser has nothing to say against the documents of projects."""

import os
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


def test_the_documents_are_valid(bake: Bake, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no npm")
        pytest.skip("there is no npm")
    install = (npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "@asyncapi/parser@3")
    (tmp_path / "package.json").write_text("{}", "utf-8")
    run(*install, cwd=tmp_path)
    documents = []
    for number, answers in enumerate([*PLAIN, *WITH_REDIS]):
        project = bake(**answers).project_path
        path = os.pathsep.join(["src", os.environ["PYTHONPATH"]])
        document = tmp_path / f"{number}.json"
        script = SCRIPT.format(package=package(project))
        run(sys.executable, "-c", script, document, cwd=project, PYTHONPATH=path)
        documents.append(document)
    check = Path(__file__).with_name("check_asyncapi.mjs")
    run("node", check, tmp_path, *documents, cwd=tmp_path)
