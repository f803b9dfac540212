"""Results as a COCO document, as CSV text or as a table of pandas."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from modelserver.client.folders import Outcome
from modelserver.client.results import Classification, Detections
from modelserver.client.writers import CSV_COLUMNS, Csv, coco, table_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

Results: TypeAlias = Union[
    Outcome,
    Detections,
    Classification,
    "Iterable[Outcome | Detections | Classification]",
]
"""One result, or several; those without a file's name are called by their number."""


def to_coco(results: Results) -> dict[str, Any]:
    """Return detections as a COCO document; see ``writers.Coco``."""
    return coco(_outcomes(results))


def to_csv(results: Results) -> str:
    """Return a CSV text, a row a detection or class; see ``writers.Csv``."""
    file = io.StringIO(newline="")
    rows = Csv(file)
    for outcome in _outcomes(results):
        rows.write(outcome)
    return file.getvalue()


def to_pandas(results: Results) -> pd.DataFrame:
    """Return a table with the columns of the CSV text, a row a detection or class.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas as pd  # noqa: PLC0415 - optional, and takes a second

    rows = [row for outcome in _outcomes(results) for row in table_rows(outcome)]
    return pd.DataFrame(rows, columns=list(CSV_COLUMNS))


def _outcomes(results: Results) -> list[Outcome]:
    if isinstance(results, (Outcome, Detections, Classification)):
        results = [results]
    return [
        one if isinstance(one, Outcome) else Outcome(Path(), str(number), one)
        for number, one in enumerate(results, 1)
    ]
