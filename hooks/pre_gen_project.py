"""Refuse answers from which no working project could be made, before anything is written."""

import json
import keyword
import re
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any

MAX_SLUG = 50

# Names that the project imports, directly or through its dependencies, and the distributions
# they come in. A package or a distribution of the same name would hide them.
TAKEN = frozenset(
    """
    annotated_doc annotated_types anyio certifi cffi click colorama coverage cryptography dotenv
    fastapi fastapi_cli fastapi_realtime h11 httpcore2 httptools httpx2 idna iniconfig jwt
    markdown_it markdown_it_py mdurl opentelemetry opentelemetry_api packages packaging pluggy py
    pycparser pydantic pydantic_core pydantic_settings pygments pyjwt pytest pytest_cov
    pytest_timeout python_dotenv pyyaml rich rich_toolkit ruff shellingham src starlette test tests
    truststore ty typer typing_extensions typing_inspection uvicorn uvloop watchfiles websockets yaml
    {{ "redis hiredis" if cookiecutter.__redis }}
    """.split()
)


# Bidirectional controls, with which a text reads differently from what it is, and what YAML forbids.
FORBIDDEN = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff"
)


def slug_problem(slug: str) -> str:
    """Return what is wrong with a slug, or an empty string."""
    package = slug.lower().replace("-", "_")
    would_be = f'would make the package "{package}", which is'
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*", slug):
        return "must begin with a letter, and have only letters and digits, with single - or _ between them"
    if len(slug) > MAX_SLUG:
        return f"has {len(slug)} characters, and at most {MAX_SLUG} are possible"
    if keyword.iskeyword(package):
        return f"{would_be} a Python keyword"
    if package in sys.stdlib_module_names:
        return f"{would_be} a module of Python itself"
    if package in TAKEN:
        return f"{would_be} a name that the project itself needs"
    return ""


def slug_example(slug: str) -> str:
    """Return a slug like this one that would do."""
    words = re.sub(r"[^a-z0-9]+", "-", slug.lower())[: MAX_SLUG - 4].strip("-0123456789")
    return f"{words or 'chat'}-app"


def text_problem(text: str) -> str:
    """Return what is wrong with free text, or an empty string."""
    for character in text:
        control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        if control or character in FORBIDDEN:
            return f"has a control character, {ascii(character)}; use a plain line of text"
    return ""


def derived(answers: dict[str, Any]) -> dict[str, Any]:
    """Return the private values that cookiecutter.json derives from the answers."""
    title = answers["project_name"]
    quote = "'" if title.count('"') > title.count("'") else '"'
    jwt = answers["auth"] == "jwt"
    rooms = answers["include_broadcast"]
    redis = rooms and answers["broker"] == "redis"
    endpoints = answers["include_echo"] or answers["include_json"] or rooms
    settings = ["RedisSettings"] * redis or ["RoomSettings"] * rooms
    settings = settings + ["TokenSettings"] * jwt or ["RealtimeSettings"]
    extras = ",".join(["jwt"] * jwt + ["redis"] * redis)
    return {
        "_new_lines": "\n",
        "_jinja2_env_vars": {"trim_blocks": True, "lstrip_blocks": True},
        "__package_name": answers["project_slug"].lower().replace("-", "_"),
        "__endpoints": "yes" * endpoints,
        "__redis": "yes" * redis,
        "__settings": ", ".join(settings),
        "__extras": f"[{extras}]" * bool(extras),
        "__year": year(answers["__year"]),
        "__title_python": f"{quote}{escaped(title, quote)}{quote}",
        "__title_markdown": in_markdown(title),
        "__description_markdown": in_markdown(answers["description"]),
        "__author_markdown": in_markdown(answers["author_name"]),
        "__description_toml": escaped(answers["description"], '"'),
        "__author_toml": escaped(answers["author_name"], '"'),
    }


def year(text: str) -> str:
    """Return the year of a license: a replay, or an update, keeps the one in which it began."""
    return text if re.fullmatch(r"20\d\d", text) else str(datetime.now(UTC).year)


def escaped(text: str, quote: str) -> str:
    """Return a text as it stands in these quotes, in TOML and Python."""
    return text.replace("\\", "\\\\").replace(quote, f"\\{quote}")


def in_markdown(text: str) -> str:
    """Return a text as it stands in Markdown."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")


def problems(answers: dict[str, Any]) -> list[str]:
    """Return a sentence for each answer that won't do."""
    for field, answer in answers.items():
        if field.startswith("include_") and not isinstance(answer, bool):
            return [f"{field} is the text {answer!a}, neither true nor false.", OLD]
    found = []
    slug = answers["project_slug"]
    if problem := slug_problem(slug):
        found.append(f"project_slug {ascii(slug)} {problem}; try {slug_example(slug)!r}.")
    for field in ("project_name", "description", "author_name"):
        if problem := text_problem(answers[field]):
            found.append(f"{field} {ascii(answers[field])} {problem}.")
    if not answers["project_name"].strip():
        found.append("project_name is empty; try 'Chat App'.")
    if found:
        return found
    for field, value in derived(answers).items():
        if answers[field] != value:
            found.append(f"{field} is {answers[field]!a}; the answers make it {value!a}.")
    return [*found, GIVEN] if found else []


OLD = """\
Cookiecutter before 2.7 makes such answers; use 2.7 or later: `uvx cookiecutter@latest`, for instance."""
GIVEN = """\
Remove such values from the default_context of your configuration, the command line and the replay file.
If they are not there, cookiecutter is too old; use 2.7 or later."""

# Jinja's JSON has no single quotes inside, so these around it must stay single.
# fmt: off
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')
# fmt: on

if found := problems(ANSWERS):
    sys.exit("\n".join(["This project was not made:", *found]))
