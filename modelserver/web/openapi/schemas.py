"""The JSON schemas of the routes' answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core import contract

if TYPE_CHECKING:
    from collections.abc import Collection

    from modelserver.tasks import Task
    from modelserver.web.dialects.dialect import Dialect

_ALL = (
    contract.Problem,
    contract.Models,
    contract.ModelReport,
    contract.Labels,
    contract.Live,
    contract.Ready,
    contract.Meaning,
)


def components(
    tasks: Collection[Task[Any]], dialects: Collection[Dialect] = ()
) -> dict[str, Any]:
    """Return the JSON schema of every type, by its name.

    Args:
        tasks: whose answers are described, too.
        dialects: the same; their types bear their names.
    """
    answers = [kind for task in tasks for kind in (task.answer_type, task.results_type)]
    _, schemas = msgspec.json.schema_components(
        (*answers, *_ALL), ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        if "kind" in schema["properties"]:
            schema["properties"]["kind"] = {"enum": sorted(task.kind for task in tasks)}
    for dialect in dialects:
        schemas.update(_of_dialect(dialect)[1])
    return {name: _without_false(schema) for name, schema in schemas.items()}


def of_dialect(dialect: Dialect) -> list[dict[str, Any]]:
    """Return the schemas of the answers of a dialect's routes, in their order."""
    return [_without_false(schema) for schema in _of_dialect(dialect)[0]]


def _of_dialect(dialect: Dialect) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Two dialects may well have types of the same name.
    schemas, components = msgspec.json.schema_components(
        [route.answer for route in dialect.routes],
        ref_template=f"#/components/schemas/{dialect.name}.{{name}}",
    )
    named = {f"{dialect.name}.{name}": each for name, each in components.items()}
    return schemas, named


def of(kind: Any) -> dict[str, Any]:
    """Return the schema of a type; of those among the components, a reference."""
    (schema,), _ = msgspec.json.schema_components(
        (kind,), ref_template="#/components/schemas/{name}"
    )
    return schema


def _without_false(schema: Any) -> Any:
    """Leave out ``"items": false``, which apispec takes for a type's name.

    Nothing is lost: ``maxItems`` stands next to it.
    """
    if isinstance(schema, dict):
        return {
            key: _without_false(value)
            for key, value in schema.items()
            if not (key == "items" and value is False)
        }
    if isinstance(schema, list):
        return [_without_false(each) for each in schema]
    return schema
