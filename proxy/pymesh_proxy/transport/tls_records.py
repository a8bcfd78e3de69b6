"""Where the records of a TLS stream end (RFC 8446 5.1), and how many may come in a row that carry no data.

OpenSSL reads over whatever is none of the application's (key updates, session tickets, empty records) until there is
data or nothing left, and asks nobody. Whoever gives it a few records at a time can count them.
"""

from typing import Any, Final

HEADER: Final = 5  # bytes: type, version, length
# Records in a row without data, each of which costs as much as a whole one with it. BoringSSL's limit on key updates.
MAX_IDLE_RECORDS: Final = 32


class TooManyRecords(ConnectionAbortedError):  # noqa: N818 - says what the peer did
    """The peer sends record after record and says nothing."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_IDLE_RECORDS} TLS records in a row without data")


class Records:
    """The borders between records in a stream that comes in pieces, and the records since the last data."""

    __slots__ = ("_header", "_left", "idle")

    def __init__(self) -> None:
        self._header = b""  # of a record, as far as it has come
        self._left = 0  # bytes of a record still to come
        self.idle = 0

    def take(self, data: "memoryview[Any]", at: int, most: int) -> tuple[int, int]:
        """A piece of `data` from `at` on: up to `most` bytes, or MAX_IDLE_RECORDS records. Where it ends, its records.

        A record counts where it ends.
        """
        end, count, left = min(len(data), at + most), 0, self._left
        while at < end and count < MAX_IDLE_RECORDS:
            if not left:
                begun = len(self._header)
                header = self._header + data[at : min(end, at + HEADER - begun)]
                at += len(header) - begun
                if len(header) < HEADER:
                    self._header = header
                    break
                self._header = b""
                left = (header[3] << 8) | header[4]
            step = min(left, end - at)
            at, left = at + step, left - step
            count += not left
        self._left = left
        return at, count

    def between(self) -> bool:
        """Whether what comes next is the start of a record, and the last one had data."""
        return not (self._left or self._header or self.idle)

    def aligned(self) -> None:
        """What comes next is the start of a record, and the last one had data."""
        self._header, self._left, self.idle = b"", 0, 0

    def passed(self, count: int, *, data: bool) -> None:
        """`count` records have been read; `data` if any of them had some.

        Raises:
            TooManyRecords: the last ones had none, and are too many.
        """
        self.idle = 0 if data else self.idle + count
        if self.idle > MAX_IDLE_RECORDS:
            raise TooManyRecords
