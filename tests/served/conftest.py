"""An environment that projects share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `uv` installs one project after the other."""
    return tmp_path_factory.mktemp("environment") / "venv"


@pytest.fixture(autouse=True)
def environment(shared_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Share it, since Python takes seconds to compile what is in a new one."""
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(shared_environment))
    return shared_environment
