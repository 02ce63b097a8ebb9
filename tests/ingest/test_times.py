"""Times in every known form are in order, and no digit is lost that tells two of them apart."""

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laser.ingest.tables import ParquetFile
from laser.ingest.times import Clock, OtherForm, UnreadableTime


def read(*batches: list | pa.Array) -> list[int]:
    clock = Clock()
    while True:
        try:
            return [int(time) for batch in batches for time in clock.read(pa.chunked_array([batch]))]
        except OtherForm as found:
            clock = found.clock


ZONED = ["2020-01-03T00:00:00Z", "2020-01-03 00:00:00 UTC", "2020-01-03 00:00:00.0 utc", "2020-01-03t00:00:00z"]
ZONED += [
    "2020-01-03 01:00:00 +0100",
    "2020-01-03 00:00:00 +0000 UTC",
    "2020-01-02 19:00:00-05",
    "2020-01-03T00:00Z[UTC]",
]
ZONED += [
    "2020-01-03T01:00:00+01:00[Europe/Paris]",
    "2020-01-03 01:00:00 GMT+01:00",
    " 2020-01-03 00:00:00,000 Etc/UTC ",
]


@pytest.mark.parametrize("text", ZONED)
def test_spellings_of_a_time_with_a_zone_are_one_time(text: str):
    assert read([ZONED[0], text]) == [1578009600 * 10**6] * 2


ORDERED = {
    "nanoseconds": ["2020-01-01T00:00:00.5Z", "2020-01-02T00:00:00.000000001Z", "2020-01-02T00:00:00.000000002Z"],
    "local nanoseconds": ["1999-01-01", "2020-01-01 00:00:00.1234567", "2020-01-01 00:00:00.1234568"],
    "a far future": ["0001-01-01", "2020-01-01", "9999-12-31 23:59:59.999999"],
    "fractions of seconds": ["1700000000", "1700000000.123456788", "1700000000.123456789"],
    "microseconds as floats": ["1700000000000001.0", "1700000000000002.0", "1.700000000000003e+15"],
    "nanoseconds as floats": ["1.7e+18", "1700000000000000001.0", "1700000000000000002.0"],
    "microseconds with fractions": ["1700000000000000.123", "1700000000000000.124", "1700000000000001"],
    "tiny": ["-1e-15", "0", "1e-15", "0.1234567890123456", "0.1234567890123457"],
    "decimals": [Decimal("1.000000001"), Decimal("1.000000002")],
    "days": [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)],
    "floats in microseconds": [1700000000000001.0, 1700000000000002.0],
    "floats in nanoseconds": [1.7e18, np.nextafter(1.7e18, 2e18)],
    "floats beyond milliseconds": [1700000000.1234567, np.nextafter(1700000000.1234567, 2e9)],
    "floats near zero": [-5.5, -1e-12, 0.0, 1e-12, 0.1234567890123456],
    **{f"timestamp[{unit}]": pa.array([1, 2, 3], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
    **{
        f"timestamp[{unit}, tz]": pa.array([1, 2, 3], pa.timestamp(unit, "Asia/Tokyo"))
        for unit in ("s", "ms", "us", "ns")
    },
}


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("cut", [False, True])
def test_times_are_in_order_wherever_a_batch_ends(name: str, cut: bool):
    times = ORDERED[name] if isinstance(ORDERED[name], pa.Array) else pa.array(ORDERED[name])
    read_times = read(times[:1], times[1:]) if cut else read(times)
    assert read_times == sorted(set(read_times))


@pytest.mark.parametrize("nanoseconds", [True, False])
def test_times_of_96_bits_are_in_order_to_the_nanosecond_or_in_any_year(nanoseconds: bool, tmp_path: Path):
    texts = ["2020-01-01T00:00:00.000000001", "2020-01-01T00:00:00.000000002"] if nanoseconds else ["0001", "9999"]
    times = pa.array(np.array(texts, f"datetime64[{'ns' if nanoseconds else 'us'}]"))
    pq.write_table(pa.table({"time": times}), tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
    [batch] = ParquetFile(tmp_path / "t.parquet").batches({"time": "time"})
    first, second = read(batch["time"].combine_chunks())
    assert first < second


def test_integers_are_kept_and_other_times_are_microseconds_where_these_suffice():
    assert read([3, 2**63 - 1, -(2**63)]) == [3, 2**63 - 1, -(2**63)]
    assert read(["5", "6"], ["6.5"]) == [5_000_000, 6_000_000, 6_500_000]
    assert read([1.5, 2.0]) == [1_500_000, 2_000_000]
    assert read(pa.array([7000], pa.timestamp("ns"))) == [7]


MISSING_DATE = np.array(["2020-01-01", "NaT"], "datetime64[ns]")


@pytest.mark.parametrize(
    ("batches", "row", "value"),
    [
        ([["1", "1.5", "soon"]], 2, "soon"),
        ([["1"], ["2020-01-01"]], 0, "2020-01-01"),
        ([["2020-01-01", "2020-01-01Z"]], 1, "2020-01-01Z"),
        ([["2020-01-01", "2020-01-01 00:00:00 UTC"]], 1, "2020-01-01 00:00:00 UTC"),
        ([["2020-01-01 00:00:00.0000001", "9999-12-31"]], 1, "9999-12-31"),
        ([["2020-01-01 00:00:00 EST"]], 0, "2020-01-01 00:00:00 EST"),
        ([["1", "NaT"]], 1, "NaT"),
        ([["1", "1" + "0" * 400]], 1, "1" + "0" * 400),
        ([["1700000000000000000.5"]], 0, "1700000000000000000.5"),
        ([[1.0, float("nan")]], 1, "nan"),
        ([[1.0, float("inf")]], 1, "inf"),
        ([[1.5, 2.0**63]], 1, "9.223372036854775808e+18"),
        ([pa.array(MISSING_DATE)], 1, ""),
        ([pa.array([1, -(2**63)], pa.timestamp("ns"))], 1, ""),  # NaT without a mask, as some programs write it
    ],
)
def test_a_time_that_cannot_be_read_is_named(batches: list, row: int, value: str):
    with pytest.raises(UnreadableTime) as caught:
        read(*batches)
    assert caught.value.row == row
    assert caught.value.value in (value, str(2.0**63))
