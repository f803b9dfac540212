"""The JSON schemas of the routes' answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core import contract

if TYPE_CHECKING:
    from collections.abc import Collection

    from modelserver.tasks import Task

_ALL = (
    contract.Problem,
    contract.Models,
    contract.ModelReport,
    contract.Labels,
    contract.Live,
    contract.Ready,
    contract.Meaning,
)


def components(tasks: Collection[Task[Any]]) -> dict[str, Any]:
    """Return the JSON schema of every type, by its name.

    Args:
        tasks: whose answers are described, too.
    """
    answers = [kind for task in tasks for kind in (task.answer_type, task.results_type)]
    _, schemas = msgspec.json.schema_components(
        (*answers, *_ALL), ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        if "kind" in schema["properties"]:
            schema["properties"]["kind"] = {"enum": sorted(task.kind for task in tasks)}
    return {name: _without_false(schema) for name, schema in schemas.items()}


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
