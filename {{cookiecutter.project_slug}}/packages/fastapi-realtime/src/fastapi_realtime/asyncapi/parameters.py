"""Parameters of a handshake: path, query, headers, cookies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from ..fastapi_internals import Dependant, get_flat_params, get_typed_signature
from .messages import Mode

PLACES = ("path", "query", "header", "cookie")


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
    """Return the parameters of an endpoint and its dependencies, path parameters first."""
    declared = list(declared_parameters(dependant)) if dependant else []
    known = {each.name for each in declared if each.place == "path"}
    others = [named_parameter(dependant, name) for name in in_path if name not in known]
    return [*others, *(each for each in declared if each.place != "path" or each.name in in_path)]


def declared_parameters(dependant: Dependant) -> Iterator[Parameter]:
    """Yield each parameter declared by `Path`, `Query`, `Header` and `Cookie` once."""
    for place in PLACES:
        fields = [each for part in tree(dependant) for each in getattr(part, f"{place}_params")]
        # FastAPI splits a model of several parameters only in `get_flat_params`.
        whole = Dependant()
        getattr(whole, f"{place}_params").extend(fields)
        unique = {name_of(each, place): each.field_info for each in get_flat_params(whole)}
        shown = {name: info for name, info in unique.items() if is_shown(info)}
        yield from (declared_parameter(name, place, info) for name, info in shown.items())


def is_shown(info: FieldInfo) -> bool:
    """Return whether a parameter is included in documentation."""
    return getattr(info, "include_in_schema", True)


def declared_parameter(name: str, place: str, info: FieldInfo) -> Parameter:
    """Return a parameter with its type and constraints."""
    annotation: Any = info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[annotation, None, *info.metadata])
    return Parameter(name, place, adapter, info.is_required(), notes_of(info))


def tree(dependant: Dependant) -> Iterator[Dependant]:
    """Yield an endpoint's dependant, and those of its dependencies."""
    yield dependant
    for dependency in dependant.dependencies:
        yield from tree(dependency)


def name_of(field: Any, place: str) -> str:
    """Return the name that clients use."""
    if alias := field.validation_alias or field.field_info.alias:
        return alias
    return field.name.replace("_", "-") if place == "header" else field.name


def named_parameter(dependant: Dependant | None, name: str) -> Parameter:
    """Return a path parameter that a dependency reads from the request by itself.

    The endpoint describes it: `room: Annotated[str, Depends(...), Field(...)]`.
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
    """Return description, examples, default and deprecation of a parameter, for its schema."""
    default = None if info.is_required() else info.get_default(call_default_factory=False)
    notes = {
        "description": info.description,
        "examples": info.examples,
        "default": default if default != "" else None,
        "deprecated": info.deprecated and True,
    }
    return {key: to_jsonable_python(note) for key, note in notes.items() if note is not None}
