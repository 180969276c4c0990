"""The README of the engine lists what the code has, and nothing else."""

import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import fastapi_realtime
import pytest
from fastapi_realtime import connection
from fastapi_realtime.errors import MEANINGS
from fastapi_realtime.messages import ErrorCode
from fastapi_realtime.rooms import ServerEvent, events, hub, member, memory
from fastapi_realtime.rooms.events import ClientEvent
from fastapi_realtime.server import fast_path, websocket_protocol, wire
from pydantic import TypeAdapter

SOURCE = Path(fastapi_realtime.__file__).parent
README = (SOURCE.parents[1] / "README.md").read_text("utf-8")
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20}


def rows(start: str, end: str = "\n#") -> list[list[str]]:
    """Return the cells of the rows of all tables between two texts."""
    lines = README[README.index(start) :].partition(end)[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def code(cells: list[list[str]]) -> list[str]:
    """Return what is in backticks in the first column."""
    return [text for row in cells for text in re.findall("`([^`]+)`", row[0])]


@pytest.mark.parametrize("name", ["", ".rooms", ".rooms.redis", ".tokens", ".testing"])
def test_public_names_are_listed_and_exist(name: str) -> None:
    module = import_module(f"fastapi_realtime{name}")
    listed = [re.split(r"[(\[]", text) for text in code(rows(f"### `{module.__name__}`\n"))]
    for path, *arguments in listed:
        found = attrgetter(path)(module)
        for argument in re.findall(r"\b[a-z_]+\b", "".join(arguments).replace("=None", "")):
            assert argument in inspect.signature(found).parameters, path
    assert {path.partition(".")[0] for path, *_ in listed} == {*module.__all__}


def event_types(union: Any) -> set[str]:
    """Return all values of `type` in a union."""
    schemas = TypeAdapter(union).json_schema()["$defs"].values()
    types = [each.get("properties", {}).get("type", {"enum": []}) for each in schemas]
    return {kind for each in types for kind in each.get("enum", [each.get("const")])}


def test_event_types_are_those_of_the_code() -> None:
    assert {*code(rows("From the server:", "From the client"))} == event_types(ServerEvent)
    assert {*code(rows("From the client", "\n#"))} == event_types(ClientEvent)


def test_error_and_close_codes_are_those_of_the_code() -> None:
    section = rows("## Errors and close codes\n", "\nRejected handshakes")
    assert {*code(section)} == {*ErrorCode}
    assert [row[0] for row in section if row[0].isdigit()] == [str(int(each)) for each in MEANINGS]


def test_metrics_are_those_of_the_code() -> None:
    sources = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    created = re.findall(r'\.create_\w+\(\s*"([^"]+)"', sources)
    assert sorted(code(rows("## Metrics\n"))) == sorted(created)


def test_limits_have_the_values_of_the_code() -> None:
    for names, values, *_ in rows("## Server limits")[1:]:
        for path, value in zip(code([[names]]), values.split(", "), strict=True):
            module, _, constant = path.rpartition(".")
            number, _, unit = value.partition(" ")
            found = getattr(import_module(f"fastapi_realtime.{module}"), constant)
            assert found == int(number) * UNITS[unit], path


def test_files_that_are_named_exist() -> None:
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", README):
        assert (SOURCE / path.removeprefix("/")).exists(), path


def test_the_hops_of_a_message_exist() -> None:
    hops = README[README.index("The hops of one message") :]
    found = dict(inspect.getmembers(wire, callable))
    for module in (connection, events, fast_path, hub, member, memory, websocket_protocol):
        found |= dict(inspect.getmembers(module, inspect.isclass))
    names = re.findall(r"\b([A-Z]\w+)\.(\w+)", hops)
    assert len(names) > 10
    for owner, name in names:
        assert hasattr(found[owner], name), f"{owner}.{name}"
    for name in re.findall(r"\bwire\.(\w+)", hops):
        assert name in found
