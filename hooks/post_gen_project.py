"""Remove folders that were left empty, and print the next steps. Nothing here can fail."""

import os
import sys
from contextlib import suppress

OPTIONAL = ("src/{{ cookiecutter.__package_name }}/web", ".github/workflows", ".github")
"""Folders whose files may all be skipped."""

NEXT_STEPS = """
Your project is in {{ cookiecutter.project_slug }}. To run it:

    cd {{ cookiecutter.project_slug }}
{% if cookiecutter.auth == "jwt" %}
    uv run {{ cookiecutter.project_slug }} key >> .env
{% endif %}
    uv run {{ cookiecutter.project_slug }}
{% if cookiecutter.include_demo %}

Then open http://127.0.0.1:8000/ in a browser.
{% endif %}
{% if cookiecutter.__redis %}

It expects Redis at APP_BROKER_URL, redis://127.0.0.1:6379/0 by default; with memory://,
rooms live in one process.{{ " `docker compose up --build` brings a Redis." if cookiecutter.include_docker }}
{% elif cookiecutter.broker == "redis" %}

Without the broadcast endpoint, the answer broker=redis has no effect.
{% endif %}
{% if cookiecutter.__endpoints %}

{{ "Or talk" if cookiecutter.include_demo else "To talk" }} to it in another terminal:

{% if cookiecutter.include_echo %}
    uv run {{ cookiecutter.project_slug }} talk /ws
{% elif cookiecutter.include_json %}
    uv run {{ cookiecutter.project_slug }} talk /ws_json
{% else %}
    uv run {{ cookiecutter.project_slug }} talk /ws_broadcast
{% endif %}
{% else %}

README.md shows how to add an endpoint.
{% endif %}

`uv run pytest` runs its tests; README.md explains the rest. The first `uv run`
writes uv.lock: commit it, so that everybody runs the same versions.
"""


if __name__ == "__main__":
    for folder in OPTIONAL:
        with suppress(OSError):  # one that holds a file stays
            os.rmdir(folder)
    try:
        print(NEXT_STEPS, flush=True)
    except OSError:
        # Nobody reads it. Python flushes once more at its end; a failure there would undo all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
