"""The endpoints, one short file each; `main.py` joins them to the application."""
