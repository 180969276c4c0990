"""Tests of the engine, for updates of it, and of uvicorn. They need nothing outside `realtime`."""
