"""Projects rendered from this template, whose pages are tested."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter
from fastapi import FastAPI
from fastapi_realtime.testing import make_settings
from fastapi_realtime.tokens import make_token, new_secret

TEMPLATE = Path(__file__).parents[2]

ANSWERS: dict[str, dict[str, Any]] = {
    "open": {},
    "tokens": {"auth": "jwt"},
    "json-only": {"auth": "jwt", "include_echo": False, "include_broadcast": False},
    "empty": {"include_echo": False, "include_json": False, "include_broadcast": False},
}
"""Projects by their names."""


def projects(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of these projects, as the fixture `project`."""
    return pytest.mark.parametrize("project", names, indirect=True)


class Project:
    """A rendered project, whose package is imported into this process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.slug = f"page-{name}"
        answers = ANSWERS[name] | {"project_slug": self.slug}
        rendered = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            accept_hooks=False,
            default_config=True,
        )
        sys.path.append(str(Path(rendered, "src")))
        package = self.slug.replace("-", "_")
        self._create_app = import_module(f"{package}.main").create_app
        self._settings = import_module(f"{package}.settings").Settings
        self.has_tokens = answers.get("auth") == "jwt"
        self._key = {"auth_key": new_secret()} if self.has_tokens else {}

    def create_app(self, **settings: object) -> FastAPI:
        """Return the application with these settings."""
        return self._create_app(make_settings(self._settings, **self._key | settings))

    def token(self, subject: str) -> str:
        """Return a token that opens all rooms; without tokens, an empty text."""
        if not self.has_tokens:
            return ""
        settings = make_settings(self._settings, **self._key)
        return make_token(subject, 600, settings, claims={"rooms": ["*"]})

    def keep_token(self, subject: str) -> str:
        """Return a script that gives the page such a token."""
        return f"sessionStorage.setItem('token', '{self.token(subject)}')"
