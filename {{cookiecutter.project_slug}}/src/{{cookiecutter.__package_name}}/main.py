"""The application, for servers to import: `{{ cookiecutter.__package_name }}.main:app`."""

from .application import create_app
from .realtime import load_settings
from .settings import Settings

app = create_app(load_settings(Settings))
