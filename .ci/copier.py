"""Make copier.yml from cookiecutter.json, so that Copier can update what either tool has rendered.

uv run .ci/copier.py
"""

import json
import keyword
import re
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parents[1]

HEAD = """\
# Made from cookiecutter.json by `uv run .ci/copier.py`; change that instead.

_min_copier_version: "9.4.0"
_subdirectory: "{% raw %}{{cookiecutter.project_slug}}{% endraw %}"
_templates_suffix: ""
_envops:
  trim_blocks: true
  lstrip_blocks: true
  keep_trailing_newline: true
"""

NAMES = r"(?s)TAKEN = frozenset\(\s*\"\"\"(.*?)\{\{"
"""Where the hook lists names that projects import."""
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
SLUG = r"^[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*\Z"


def main() -> None:
    """Write copier.yml."""
    context = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    (TEMPLATE / "copier.yml").write_text(copier_yml(context), "utf-8", newline="\n")


def copier_yml(context: dict[str, Any]) -> str:
    """Return Copier's questions, which are those of a cookiecutter.json.

    A hidden one, `cookiecutter`, has all answers and the private values that are derived from
    them, since that is the name by which the template's files know them.
    """
    asked = [key for key in context if not key.startswith("_")]
    questions = [
        question(key, context[key], context["__prompts__"][key], asked[:index])
        for index, key in enumerate(asked)
    ]
    lines = [answers(asked)]
    for key in context:
        if key.startswith("__") and key != "__prompts__":
            value = context[key].replace("{% now 'utc', '%Y' %}", "{{ '%Y' | strftime }}")
            lines.append(f"{{% set value %}}{value}{{% endset %}}")
            lines.append(f"{{% set _ = cookiecutter.update({{{key!r}: value}}) %}}")
    default = "".join(f"\n    {line}" for line in [*lines, "{{ cookiecutter | tojson }}"])
    hidden = f"cookiecutter:\n  type: json\n  when: false\n  default: |-{default}\n"
    return "\n".join([HEAD, *questions, hidden])


def question(key: str, default: Any, label: Any, before: list[str]) -> str:
    """Return a question in YAML. Its default may depend on the answers `before` it."""
    lines: dict[str, Any] = {"type": "bool" if isinstance(default, bool) else "str"}
    if isinstance(default, list):
        lines["help"] = label["__prompt__"]
        lines["choices"] = {label[choice]: choice for choice in default}
        lines["default"] = default[0]
    else:
        lines["help"] = label
        lines["default"] = f"{answers(before)}{default}" if "{" in str(default) else default
    if lines["type"] == "str" and "choices" not in lines:
        lines["validator"] = validator(key)
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in lines.items()}
    return f"{key}:\n" + "".join(f"  {name}: {value}\n" for name, value in values.items())


def validator(key: str) -> str:
    """Return code that says what is wrong with an answer: what the hook of cookiecutter refuses.

    But for names of Python's own modules, which differ between its versions.
    """
    checks = {f"{key} | regex_search({CONTROL!r})": "has a control character"}
    if key == "project_name":
        checks["not project_name.strip()"] = "is empty"
    if key == "project_slug":
        hook = (TEMPLATE / "hooks/pre_gen_project.py").read_text("utf-8")
        taken = sorted({*re.search(NAMES, hook)[1].split(), *map(str.lower, keyword.kwlist)})
        checks[f"not project_slug | regex_search({SLUG!r}) or project_slug | length > 50"] = (
            "must begin with a letter, and have up to 50 letters and digits, with single - or _ "
            "between them"
        )
        package = "project_slug | lower | replace('-', '_')"
        checks[f"{package} in {' '.join(taken)!r}.split()"] = (
            "is a name that Python or the project needs"
        )
    rules = [f"if {check} %}}{problem}{{% " for check, problem in checks.items()]
    return f"{{% {'el'.join(rules)}endif %}}"


def answers(keys: list[str]) -> str:
    """Return code that sets `cookiecutter` to the answers of these questions."""
    return f"{{% set cookiecutter = {{{', '.join(f'{key!r}: {key}' for key in keys)}}} %}}"


if __name__ == "__main__":
    main()
