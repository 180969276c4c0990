"""Tests of the engine, where it stands in the template: they render nothing."""
