"""The command `{{ cookiecutter.project_slug }}`: run the server; `--help` lists what else it does."""

from fastapi_realtime import run_command

from .settings import Settings


def main() -> None:
    """Do what the command line says."""
{% if cookiecutter.include_demo %}
    run_command(f"{__package__}.main:app", Settings, page=lambda found: "/" if found.demo else "")
{% else %}
    run_command(f"{__package__}.main:app", Settings)
{% endif %}


if __name__ == "__main__":
    main()
