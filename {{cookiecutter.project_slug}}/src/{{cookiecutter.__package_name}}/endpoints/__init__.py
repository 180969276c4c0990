"""The endpoints, one short file each; `main.py` adds them to the application."""
