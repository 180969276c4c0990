"""Levels 0 and 1: what is rendered."""
