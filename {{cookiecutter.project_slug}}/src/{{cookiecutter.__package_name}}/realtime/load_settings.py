"""Reading settings, and explaining those that do not work."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from dotenv.parser import parse_stream
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)

SIMILAR = 0.75
"""How similar a variable must be to a setting's name to be taken for it, misspelt (0 to 1)."""
KUBERNETES_PORT = (
    'Kubernetes sets this for a Service named "app"; set enableServiceLinks: false in the '
    "pod, rename the Service, or set APP_PORT in the container"
)


class SettingsError(ValueError):
    """Settings that do not work; the message has a line for each."""


def without_empty(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, str | None]:
    """Leave out empty variables, which mean the default, unless the setting is a text."""
    texts = {f"app_{name}" for name, field in fields.items() if field.annotation is str}
    return {
        name: value
        for name, value in variables.items()
        if value or (value is not None and name in texts)
    }


def misspelt(
    variables: Mapping[str, str | None], fields: Mapping[str, FieldInfo]
) -> dict[str, Any]:
    """Return variables nearly named like a setting; others belong to other programs."""
    names = [name.removeprefix("app_") for name in variables if name.startswith("app_")]
    return {
        name: ""
        for name in names
        if name not in fields and get_close_matches(name, fields, 1, SIMILAR)
    }


def load_settings(kind: type[S]) -> S:
    """Read settings from the environment and `.env`, or raise `SettingsError`."""
    try:
        _check_file(Path(".env"))
        return kind()
    except ValidationError as failure:
        lines = [_explain(error, kind.model_fields) for error in failure.errors(include_url=False)]
        raise SettingsError("\n".join(["These settings do not work:", *lines])) from None
    except UnicodeDecodeError:
        raise SettingsError("The file .env is not UTF-8.") from None


def _check_file(path: Path) -> None:
    """Refuse a file with a line that can't be read; dotenv would leave it out."""
    lines = parse_stream(StringIO(path.read_text("utf-8"))) if path.is_file() else ()
    for line in lines:
        has_no_value = line.key is not None and line.key.startswith("APP_") and line.value is None
        if line.error or has_no_value:
            raise SettingsError(f"Line {line.original.line} of .env is not NAME=value.")


def _explain(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    field = str(error["loc"][0])
    name = f"APP_{field.upper()}"
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        (nearest,) = get_close_matches(field, fields, 1, 0)
        return f"  {name}: there is no such setting; the nearest is APP_{nearest.upper()}"
    if fields[field].annotation is SecretStr:
        return f"  {name}: {rule}"
    if field == "port" and re.match("[a-z]+://", str(error["input"])):
        rule = KUBERNETES_PORT
    return f"  {name}={error['input']!r}: {rule}"
