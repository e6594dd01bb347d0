"""New trials as plain values, from which a study that is older than they are is repaired."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution

from langsearch.study.mirror import Proposal
from langsearch.study.table import TrialTable


def record_proposals(table: TrialTable, begin: int) -> list[dict[str, Any]]:
    """Returns what is known of the searched trials from a number on when they are proposed, fit for JSON.

    Args:
        table: The trial table.
        begin: The first number.
    """
    records = []
    for number in range(begin, table.num_searched):
        row = table.row(f"{number:05d}")
        stored = table.stored[row.name]
        records.append(
            {
                "number": number,
                "point": dict(row.params),
                "distributions": {
                    name: json.loads(distribution_to_json(found))
                    for name, found in table.stored.distributions(row.name).items()
                },
                "fingerprint": row.fingerprint,
                "same_as": row.same_as,
                "retry_of": row.retry_of,
                "space_version": row.space_version,
                "attributes": dict(stored.attributes),
                "study_attributes": dict(stored.study_attributes),
            }
        )
    return records


def add_recorded(table: TrialTable, records: Iterable[Mapping[str, Any]]) -> int:
    """Adds recorded trials that a table does not have, as running ones; returns how many.

    Args:
        table: The trial table.
        records: In any order, some perhaps several times; those behind a gap are left out.
    """
    by_number = {int(record["number"]): record for record in records}
    begin = table.num_searched
    while (record := by_number.get(table.num_searched)) is not None:
        distributions = {
            name: json_to_distribution(json.dumps(value)) for name, value in record["distributions"].items()
        }
        table.add(
            table.num_searched,
            record["point"],
            fingerprint=record["fingerprint"],
            same_as=record["same_as"],
            retry_of=record["retry_of"],
            recorded=Proposal(
                point=record["point"],
                distributions=distributions,
                attributes=record["attributes"],
                study_attributes=record["study_attributes"],
            ),
            space_version=record["space_version"],
        )
    return table.num_searched - begin
