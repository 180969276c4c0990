"""Parameters of a handshake: in the path, the query, headers and cookies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params, get_typed_signature
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from .messages import Mode


@dataclass(eq=False)
class Parameter:
    """A parameter, where it is, and how it is validated."""

    name: str
    place: str
    adapter: TypeAdapter[Any]
    required: bool
    notes: dict[str, Any]
    mode: Mode = "validation"


def parameters(dependant: Dependant | None, in_path: Iterable[str]) -> list[Parameter]:
    """Return what an endpoint and its dependencies ask for; those of the path first."""
    declared = list(declared_parameters(dependant)) if dependant else []
    known = {each.name for each in declared if each.place == "path"}
    others = [named_parameter(dependant, name) for name in in_path if name not in known]
    return [*others, *(each for each in declared if each.place != "path" or each.name in in_path)]


def declared_parameters(dependant: Dependant) -> Iterator[Parameter]:
    """Yield what `Path`, `Query`, `Header` and `Cookie` declare, once each."""
    seen = set()
    for declared in get_flat_params(dependant):
        info: Any = declared.field_info
        place = info.in_.value
        name = declared.validation_alias or declared.alias
        if (name, place) not in seen and getattr(info, "include_in_schema", True):
            seen.add((name, place))
            kind = Annotated[info.annotation, None, *info.metadata]
            yield Parameter(name, place, TypeAdapter(kind), info.is_required(), notes_of(info))


def named_parameter(dependant: Dependant | None, name: str) -> Parameter:
    """Return a parameter of the path that a dependency reads by itself.

    It is described where the endpoint takes it: `room: Annotated[str, Depends(...), Field(...)]`.
    """
    notes: dict[str, Any] = {}
    if dependant and dependant.call:
        parameter = get_typed_signature(dependant.call).parameters.get(name)
        annotation = parameter.annotation if parameter else None
        annotated = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        for note in annotated:
            notes |= notes_of(note) if isinstance(note, FieldInfo) else {}
    return Parameter(name, "path", TypeAdapter(str), True, notes)


def notes_of(info: FieldInfo) -> dict[str, Any]:
    """Return what is said of a parameter beside its type, as JSON Schema says it."""
    default = None if info.is_required() else info.get_default(call_default_factory=False)
    notes = {
        "description": info.description,
        "examples": info.examples,
        "default": default if default != "" else None,
        "deprecated": info.deprecated and True,
    }
    return {key: to_jsonable_python(note) for key, note in notes.items() if note is not None}
