"""The endpoints, one short file each; `application.py` adds them to the application."""
