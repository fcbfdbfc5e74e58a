"""Filters on metadata: what they mean, and the parametrised SQL that finds their documents.

`{"lang": "en", "year": {"gte": 2000, "lt": 2010}}`: every name has to match. A value matches when it is equal; a list
when one of its values is; `{"eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "exists"}` say more. A document whose
metadata is a list matches when one of its entries does, `ne` and `nin` when none is equal. Text is compared with text,
numbers (true is 1) with numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from farfield.apps.retrieval.document import check_scalar, check_text
from farfield.apps.training.errors import UserError

Filter = Mapping[str, Any]
ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = ("eq", "ne", "in", "nin", *ORDER, "exists")
SIGNS = {"=": "eq", "!=": "ne", ">=": "gte", "<=": "lte", ">": "gt", "<": "lt"}
CONDITION = re.compile(r"([^=!<>]+)(=|!=|>=|<=|>|<)(.*)", flags=re.S)
# SQLite takes a limited number of parameters in one statement.
MAX_VALUES = 500


def sql(filters: Filter) -> tuple[str, list[Any]]:
    """A SELECT of the numbers of all documents that match, with its parameters.

    Raises: UserError: an operator or value is not accepted.
    """
    if not isinstance(filters, Mapping):
        raise UserError(f"filters={filters!r:.80}: a mapping of metadata names to values is accepted")
    parts: list[str] = []
    values: list[Any] = []
    for key, wanted in filters.items():
        check_text("a filter's name", key)
        tests = wanted if isinstance(wanted, Mapping) else {"in" if isinstance(wanted, (list, tuple)) else "eq": wanted}
        if not tests:
            raise UserError(f"filter {key}: {{}} asks nothing; give a value or one of {', '.join(OPERATORS)}")
        for operator, value in tests.items():
            part, more = _test(key, operator, value)
            parts.append(part)
            values += more
    if len(values) > MAX_VALUES:
        raise UserError(f"a filter of {len(values)} values: at most {MAX_VALUES} are accepted; ask in parts")
    return " INTERSECT ".join(parts) or "SELECT doc FROM documents", values


def parsed(conditions: Sequence[str]) -> dict[str, Any]:
    """A filter of conditions as a person writes them: `lang=en`, `year>=2000`, `draft!=true`.

    Values are JSON where they can be read as such, text otherwise.
    Raises: UserError: a condition has no name or operator.
    """
    filters: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        found = CONDITION.fullmatch(str(condition))
        if not found:
            raise UserError(f"filters: {condition!r:.80} came; name=value is accepted, with {', '.join(SIGNS)} between")
        name, sign, text = found.groups()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        filters.setdefault(name.strip(), {})[SIGNS[sign]] = value
    return filters


def _test(key: str, operator: str, value: Any) -> tuple[str, list[Any]]:
    where = f"filter {key}, {operator}"
    having = "SELECT doc FROM metadata WHERE key = ?"
    every = "SELECT * FROM (SELECT doc FROM documents EXCEPT "
    if operator == "exists":
        if not isinstance(value, bool):
            raise UserError(f"{where}: {value!r:.80} came, true or false is accepted")
        return (having, [key]) if value else (f"{every}{having})", [key])
    if operator in ("in", "nin"):
        if not isinstance(value, (list, tuple)) or not value:
            raise UserError(f"{where}: {value!r:.80} came, a list of values is accepted")
        for one in value:
            _check(where, one)
        found = f"{having} AND value IN ({', '.join('?' * len(value))})"
        return (found if operator == "in" else f"{every}{found})", [key, *value])
    if operator not in OPERATORS:
        raise UserError(f"{where}: {', '.join(OPERATORS)} are accepted")
    _check(where, value)
    if operator == "eq":
        return f"{having} AND value = ?", [key, value]
    if operator == "ne":
        return f"{every}{having} AND value = ?)", [key, value]
    kind = "= 'text'" if isinstance(value, str) else "<> 'text'"
    return f"SELECT DISTINCT doc FROM metadata WHERE key = ? AND value {ORDER[operator]} ? AND typeof(value) {kind}", [
        key,
        value,
    ]


def _check(where: str, value: Any) -> None:
    check_scalar(where, value)
    if value is None:
        raise UserError(f"{where}: null is no value; ask for exists: false")
