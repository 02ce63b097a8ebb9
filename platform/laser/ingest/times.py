"""Reads the times of interactions, in any known form, as integers in the order of time.

Numbers may count any unit from any start, the same in all rows. Integers are kept; other numbers are scaled by a
million, or by what their digits need. Dates become microseconds, or nanoseconds where one has such digits. Only the
order of times is used, so that no digit may be lost that tells two times apart.
"""

from bisect import bisect_left
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Form = Callable[[pa.ChunkedArray], pa.ChunkedArray]
"""Converts a column to int64, or raises an Arrow error where it cannot without loss."""
FLOAT_DIGITS = 15
"""Texts of so many digits are told apart by floats."""
DECIMAL_DIGITS = 38
LEAST = -(1 << 63)
"""What numpy and pandas write for a timestamp that is missing (NaT)."""


class UnreadableTime(ValueError):
    """A row's time is missing, has no known form, or has another form than the rows before it."""

    def __init__(self, row: int, value: str) -> None:
        super().__init__(f"row {row}: {value!r}")
        self.row = row
        self.value = value


class OtherForm(Exception):
    """A time needs a finer form than the times before it. The file must be read again by `clock`."""

    def __init__(self, clock: "Clock") -> None:
        super().__init__()
        self.clock = clock


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        raise pa.ArrowInvalid("not known to be whole in all batches")
    return column.cast(pa.int64())


def _scaled(digits: int) -> Form:
    """Keep so many digits behind the point."""

    def form(column: pa.ChunkedArray) -> pa.ChunkedArray:
        if pa.types.is_string(column.type) and pc.max(pc.binary_length(column)).as_py() <= FLOAT_DIGITS:
            column = column.cast(pa.float64())  # several times as fast as decimals
        if pa.types.is_floating(column.type):
            scaled = pc.round(pc.multiply(column.cast(pa.float64()), 10.0**digits))
            if pc.all(pc.equal(pc.divide(scaled, 10.0**digits), column)).as_py():  # nothing is lost
                return scaled.cast(pa.int64())
        text = column.cast(pa.string())
        if pc.max(pc.binary_length(text)).as_py() > DECIMAL_DIGITS:
            raise pa.ArrowInvalid("Arrow 25 reads a number of a hundred digits as another one")
        decimals = text.cast(pa.decimal128(20, digits))
        return pc.multiply(decimals, Decimal(10**digits)).cast(pa.int64())

    return form


def _float_order(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return integers in the order of the numbers: the bits of floats, which 17 digits determine."""
    if pa.types.is_string(column.type) and pc.any(pc.match_substring_regex(column, r"[1-9]\.?(\d\.?){17}")).as_py():
        raise pa.ArrowInvalid("more digits than a float has")
    floats = column.cast(pa.float64()).to_numpy() + 0.0  # there are two zeros
    if not (np.abs(floats) < -float(LEAST)).all():
        raise pa.ArrowInvalid("NaN, or beyond 64 bits")
    bits = floats.view(np.int64)
    return pa.chunked_array([np.where(bits < 0, bits ^ np.int64(-1 - LEAST), bits)])


def _dates(unit: str, zone: str | None) -> Form:
    return lambda column: column.cast(pa.timestamp(unit, zone)).cast(pa.int64())


_LOCAL: tuple[Form, ...] = (_dates("us", None), _dates("ns", None))
_FAMILIES: tuple[tuple[Form, ...], ...] = (
    (_whole, _scaled(6), _scaled(9), _scaled(0), _scaled(3), _float_order),
    _LOCAL,
    (_dates("us", "UTC"), _dates("ns", "UTC")),
)
"""Forms that may be mixed, the first choice first."""

_SPELLINGS = (
    (r"^(\d{4}-\d\d-\d\d)t", r"\1T"),
    (r"(:\d\d),(\d+)", r"\1.\2"),
    (r"(?i)([+-]\d\d:?\d\d|z)\s*(utc|gmt|\[[^\]]*\])$", r"\1"),  # of Go and Java, which name the zone too
    (r"(?i)(:\d\d(?:\.\d+)?)\s*(?:utc|gmt)?\s*([+-]\d\d(?::?\d\d)?)$", r"\1\2"),
    (r"(?i)(\d)\s*(?:z|utc|gmt|ut|etc/utc)$", r"\1Z"),
)
"""Spellings of ISO 8601 that Arrow does not read, and what it reads in their place."""


class Clock:
    """Reads times batch by batch, all in one form; a mixture of numbers, local dates and dates with a zone is an error.

    Args:
        forms: those that remain; None chooses them by the first time.
    """

    def __init__(self, forms: tuple[Form, ...] | None = None) -> None:
        self._forms = forms

    def read(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Read the times of a batch.

        Raises:
            UnreadableTime: a time is wrong; names the first such row.
            OtherForm: the whole file must be read again.
        """
        column, families = _plain(column)
        if self._forms is None:
            first = column.slice(0, 1)
            self._forms = next((forms for forms in families if _read(first, forms)), ())
        forms = self._forms
        found = _read(column, forms)
        if found is None:
            sizes = range(1, len(column) + 1)
            row = bisect_left(sizes, True, key=lambda size: _read(column.slice(0, size), forms) is None)
            raise UnreadableTime(row, str(column[row].as_py()))
        choice, times = found
        if choice:
            raise OtherForm(Clock(forms[choice:]))
        return times.to_numpy()


def _plain(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, tuple[tuple[Form, ...], ...]]:
    """Return the column as timestamps without a zone, numbers or text, and the forms that it may have."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    families = _FAMILIES
    if pa.types.is_timestamp(column.type):
        families = (_LOCAL,)
        column = column.cast(pa.timestamp(column.type.unit))
        column = pc.if_else(pc.equal(column.cast(pa.int64()), LEAST), pa.scalar(None, column.type), column)
    if column.null_count:
        raise UnreadableTime(pc.index(pc.is_null(column), pa.scalar(True)).as_py(), "")
    if not (families == (_LOCAL,) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        try:
            column = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # bytes, structs, lists
            raise UnreadableTime(0, str(column[0].as_py())) from error
    return column, families


def _read(column: pa.ChunkedArray, forms: tuple[Form, ...]) -> tuple[int, pa.ChunkedArray] | None:
    """Return the position of the first form that reads all times, and what it reads."""
    for respelled in (False, True) if pa.types.is_string(column.type) else (False,):
        if respelled:
            column = pc.utf8_trim_whitespace(column)
            for pattern, replacement in _SPELLINGS:
                column = pc.replace_substring_regex(column, pattern, replacement)
        for number, form in enumerate(forms):
            try:
                return number, form(column)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                continue
    return None
