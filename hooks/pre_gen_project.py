"""Refuse answers from which no working project could be made, before anything is written."""

import json
import keyword
import re
import sys
import unicodedata

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


# Bidirectional controls: with them, a text reads differently from what it is.
BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
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
        if control or character in BIDIRECTIONAL:
            return f"has a control character, {ascii(character)}; use a plain line of text"
    return ""


def problems(answers: dict[str, str]) -> list[str]:
    """Return a sentence for each answer that won't do."""
    found = []
    slug = answers.pop("project_slug")
    if problem := slug_problem(slug):
        found.append(f"project_slug {ascii(slug)} {problem}; try {slug_example(slug)!r}.")
    for field, text in answers.items():
        if problem := text_problem(text):
            found.append(f"{field} {ascii(text)} {problem}.")
    if not answers["project_name"].strip():
        found.append("project_name is empty; try 'Chat App'.")
    return found


# Jinja's JSON has no single quotes inside, so these around it must stay single.
# fmt: off
ANSWERS = {
    "project_slug": json.loads(r'''{{ cookiecutter.project_slug | tojson }}'''),
    "project_name": json.loads(r'''{{ cookiecutter.project_name | tojson }}'''),
    "description": json.loads(r'''{{ cookiecutter.description | tojson }}'''),
    "author_name": json.loads(r'''{{ cookiecutter.author_name | tojson }}'''),
}
# fmt: on

if found := problems(ANSWERS):
    sys.exit("\n".join(["This project was not made:", *found]))
