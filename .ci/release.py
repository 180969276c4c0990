"""Release a version: date its changes, commit, and tag.

uv run .ci/release.py 0.2.0
"""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

TEMPLATE = Path(__file__).parents[1]
HEADING = "## Unreleased\n"


def main() -> None:
    """Release the version on the command line; exit with a sentence if that is not possible."""
    version = sys.argv[1] if len(sys.argv) == 2 else ""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit("name a version, like: uv run .ci/release.py 0.2.0")
    tag = f"v{version}"
    if git("status", "--porcelain"):
        sys.exit("commit your changes first")
    if git("tag", "--list", tag):
        sys.exit(f"there is a tag {tag} already")
    changelog = (TEMPLATE / "CHANGELOG.md").read_text("utf-8")
    changes = changelog.partition(HEADING)[2].partition("\n## ")[0]
    if not changes.strip():
        sys.exit("CHANGELOG.md lists no changes under Unreleased")
    dated = f"{HEADING}\n## {version} - {datetime.now(UTC):%Y-%m-%d}\n"
    replace("CHANGELOG.md", re.escape(HEADING), dated)
    replace("pyproject.toml", r'^version = ".*"$', f'version = "{version}"')
    # What a project made by cookiecutter records, and so what Copier updates it from.
    answers = "{{cookiecutter.project_slug}}/.copier-answers.yml"
    replace(answers, r'default\("v.*?"\)', f'default("{tag}")')
    git("commit", "--quiet", "--all", f"--message=Release {version}")
    git("tag", "--annotate", f"--message={changes.strip()}", "--cleanup=verbatim", tag)
    print(f"Look at it with `git show {tag}`, then: git push origin HEAD {tag}")


def replace(path: str, pattern: str, new: str) -> None:
    """Replace the only match of a pattern in a file."""
    file = TEMPLATE / path
    text, count = re.subn(pattern, lambda _: new, file.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{path} has {count} matches of {pattern}"
    file.write_text(text, "utf-8", newline="\n")


def git(*arguments: str) -> str:
    """Run git in the template, and return what it says."""
    command = ("git", "-C", str(TEMPLATE), *arguments)
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


if __name__ == "__main__":
    main()
