"""Tests of client.js and its types."""
