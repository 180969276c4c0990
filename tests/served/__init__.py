"""Level 2: rendered projects, installed and run."""
