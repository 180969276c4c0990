{% if cookiecutter.auth == "jwt" %}
"""The application wants a key as soon as it is imported."""

import os

KEY = os.environ["APP_AUTH_KEY"] = "".join(map(chr, range(99, 32, -1)))
{% endif %}
