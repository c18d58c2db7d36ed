"""What a command writes: checked before the work, written together after it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graphcompress.errors import UsageError, shown
from graphcompress.transaction import Transaction, check_place

if TYPE_CHECKING:
    from graphcompress.api import Result
    from graphcompress.ir import Model
    from graphcompress.ir.files.snapshot import Snapshot
    from graphcompress.record import Record


class Outputs:
    """The result and its record. Making one checks both places, so that hours of work do not end at a missing folder.

    Raises UsageError where a place is an input or the other output, WriteError where nothing can be written there.
    """

    def __init__(self, model: Path, record: Path | None, inputs: Collection[Path | None], *, external_data: bool = False, report: Path | None = None) -> None:
        self.model = model
        self.report = report
        self.record = record
        self.external_data = external_data
        for option, path in (("-o", model), ("--record", record), ("--report", report)):
            check_output(option, path, inputs)
        if record is not None and same_file(model, record):
            raise UsageError(f"-o and --record are both {record}. Give each its own path.")
        for option, path in (("-o", model), ("--record", record)):
            if report is not None and path is not None and same_file(path, report):
                raise UsageError(f"{option} and --report are both {report}. Give each its own path.")

    def check_data(self, loaded: Model) -> None:
        """Check the places against the external data of the model that was read, and the place of the result's own where it may need one.

        Raises UsageError where data of the model that was read would be overwritten, WriteError where OUT.data belongs to something else.
        """
        from graphcompress.ir.files import serialize
        from graphcompress.ir.files.hashes import data_files
        from graphcompress.ir.files.write import check_data_place, data_path

        sources = data_files(loaded)
        large = sum(path.stat().st_size for path in (loaded.path, *sources) if path is not None) > serialize.LARGEST_MESSAGE
        beside = data_path(self.model) if self.external_data or large else None
        for source in sources:
            for option, path in (("-o", self.model), ("-o", beside), ("--record", self.record)):
                if path is not None and same_file(path, source):
                    raise UsageError(f"{option}: {path} holds the external data of {loaded.path}, which would be overwritten. Give another path.")
        if beside is not None:
            if self.record is not None and same_file(beside, self.record):
                raise UsageError(f"--record {self.record} is where the external data of {self.model} goes. Give another path.")
            check_data_place(self.model)

    def write_model(self, snapshot: Snapshot) -> None:
        """Write the model alone, for a command of which no record was asked for. Raises WriteError."""
        from graphcompress.ir.files.write import plan

        with Transaction() as transaction:
            plan(snapshot, self.model, external_data=self.external_data).stage(transaction)

    def write(self, result: Result) -> Record:
        """Write everything or nothing; the record as written. Raises WriteError."""
        from graphcompress.ir.files.write import plan

        files = plan(result.snapshot, self.model, external_data=self.external_data)
        record = result.record.model_copy(update={"output": shown(self.model), "output_data": None if files.data_path is None else shown(files.data_path)})
        with Transaction() as transaction:
            if self.record is not None:
                transaction.add(self.record, (record.model_dump_json(indent=2) + "\n").encode())
            files.stage(transaction)
            if self.report is not None:
                transaction.add(self.report, _page(record, result).encode())
        return record


def check_output(option: str, path: Path | None, inputs: Iterable[Path | None]) -> None:
    """Check the place that `option` names, if it does, before the work.

    Raises UsageError where it is one of the files that the command reads, WriteError where nothing can be written there.
    """
    if path is None:
        return
    for source in inputs:
        if source is not None and same_file(path, source):
            raise UsageError(f"{option} {path} is an input of this command ({source}), which would be overwritten. Give another path.")
    check_place(path, f"{option} {path}")


def _page(record: Record, result: Result) -> str:
    """The report; with the layers of the original, where it still can be read, beside those of the result."""
    from graphcompress.api.report import original, report

    first = original(record)
    return report(record, None if first is None else (first, result.model))


def same_file(first: Path, second: Path) -> bool:
    """True where both paths are one file, whether it exists or not."""
    with suppress(OSError):
        return first.samefile(second)
    return os.path.realpath(first) == os.path.realpath(second)
