"""Say what to do next. Nothing here changes the project, and nothing here can fail."""

import os
import sys

NEXT_STEPS = """
Your project is in {{ cookiecutter.project_slug }}. It runs at once:

    cd {{ cookiecutter.project_slug }}
{% if cookiecutter.auth == "jwt" %}
    uv run {{ cookiecutter.project_slug }} key >> .env
{% endif %}
    uv run {{ cookiecutter.project_slug }}
{% if cookiecutter.__endpoints %}

and then answers at
{% if cookiecutter.include_echo %}
    ws://127.0.0.1:8000/ws
{% endif %}
{% if cookiecutter.include_json %}
    ws://127.0.0.1:8000/ws_json
{% endif %}
{% if cookiecutter.include_broadcast %}
    ws://127.0.0.1:8000/ws_broadcast
{% endif %}
{% endif %}

Its tests run with `uv run pytest`, and README.md tells the rest. The first
`uv run` writes uv.lock: commit it, so that everybody runs the same versions.
"""

if __name__ == "__main__":
    try:
        print(NEXT_STEPS, flush=True)
    except OSError:
        # Nobody reads it. Python flushes once more at its end; a failure there would undo all.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
