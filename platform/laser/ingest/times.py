"""Reads the times of interactions, in any known form, as integers in the order of time."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Form = Callable[[pa.ChunkedArray], pa.ChunkedArray]


class UnreadableTime(ValueError):
    """A row's time is missing, has no known form, or has another form than the rows before it."""

    def __init__(self, row: int, value: str) -> None:
        super().__init__(f"row {row}: {value!r}")
        self.row = row
        self.value = value


class FractionOfSecond(Exception):
    """A fraction of a second came after whole seconds. The file must be read again by `Clock(fractions)`."""


def whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keep integers as they are."""
    return column.cast(pa.int64())


def fractions(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert fractional seconds to microseconds."""
    return pc.round(pc.multiply(column.cast(pa.float64()), 1e6)).cast(pa.int64())


def _local_dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return text.cast(pa.timestamp("us")).cast(pa.int64())


def _zoned_dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return text.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())


class Clock:
    """Reads times batch by batch, all in the form of the first; a mixture of forms is an error.

    Integers are kept. Fractional seconds and ISO 8601 text become microseconds. Only the order of times is used.
    """

    def __init__(self, form: Form | None = None) -> None:
        self._form = form

    def read(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Read the times of a batch.

        Raises:
            UnreadableTime: a time is wrong; names the first such row.
            FractionOfSecond: the whole file must be read again.
        """
        if column.null_count:
            raise UnreadableTime(pc.index(pc.is_null(column), pa.scalar(True)).as_py(), "")
        if pa.types.is_timestamp(column.type):
            self._form = _local_dates
        elif pa.types.is_floating(column.type):
            self._form = fractions
        elif not pa.types.is_integer(column.type):
            try:
                column = column.cast(pa.string())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # bytes, structs, lists
                raise UnreadableTime(0, str(column[0].as_py())) from error
        if self._form is None:
            first = column.slice(0, 1)
            self._form = next((form for form in _FORMS if _read(first, form) is not None), None)
        times = None if self._form is None else _read(column, self._form)
        if times is None:
            if self._form is whole and _read(column, fractions) is not None:
                raise FractionOfSecond
            raise self._unreadable(column)
        return times.to_numpy()

    def _unreadable(self, column: pa.ChunkedArray) -> UnreadableTime:
        row = 0
        if self._form is not None:
            form = fractions if self._form is whole else self._form  # whole and fractional seconds may be mixed
            row = next(row for row in range(len(column)) if _read(column.slice(row, 1), form) is None)
        return UnreadableTime(row, str(column[row].as_py()))


def _read(column: pa.ChunkedArray, form: Form) -> pa.ChunkedArray | None:
    try:
        return form(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


_FORMS: tuple[Form, ...] = (whole, fractions, _local_dates, _zoned_dates)
