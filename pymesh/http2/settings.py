"""Settings (RFC 9113 section 6.5): what each side tells the other about itself. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pymesh.http2 import frames
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.frames import MAX_FRAME_BYTES

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

# What holds before a peer has said anything (section 6.5.2).
DEFAULT_WINDOW: Final = 65_535
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_FRAME: Final = 2**24 - 1
# There is no limit of streams by default; of a server that has not spoken yet as many are taken to be allowed as
# section 6.5.2 asks of every server. What would be above it would risk to be refused.
STREAMS_BEFORE_SETTINGS: Final = 100
UNLIMITED: Final = 2**32


def read(payload: bytes) -> dict[int, int]:
    """The settings in a SETTINGS frame, each with its last value: those before it would be in force for no time.

    Raises:
        ConnectionBrokenError: a value that cannot be.
    """
    found: dict[int, int] = {}
    for setting, value in frames.pairs_of(payload):
        if setting == ENABLE_PUSH and value > 1:
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
        if setting == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ConnectionBrokenError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
        if setting == MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value <= LARGEST_FRAME:
            raise ConnectionBrokenError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
        found[setting] = value
    return found


def ours(*, client: bool, streams: int, window: int, header_bytes: int) -> list[tuple[int, int]]:
    """What we tell a peer, once and for good: see `connection.Connection`; the dynamic table, see `header_blocks`."""
    return [
        (HEADER_TABLE_SIZE, 0),
        (ENABLE_PUSH, 0) if client else (MAX_CONCURRENT_STREAMS, streams),
        (INITIAL_WINDOW_SIZE, window),
        (MAX_HEADER_LIST_SIZE, header_bytes),
    ]


@dataclass(slots=True)
class PeerSettings:
    """What the peer has said of itself and we heed.

    Attributes:
        streams: that we may have open at a time.
        window: bytes that we may send on a new stream.
        frame_bytes: of the largest frame that it takes.
    """

    streams: int = STREAMS_BEFORE_SETTINGS
    window: int = DEFAULT_WINDOW
    frame_bytes: int = MAX_FRAME_BYTES
    _heard: bool = False

    def change(self, settings: Mapping[int, int]) -> int:
        """Take over what was read; by how much the window of every stream changes (section 6.9.2)."""
        unlimited = self.streams if self._heard else UNLIMITED
        self._heard = True
        self.streams = settings.get(MAX_CONCURRENT_STREAMS, unlimited)
        # Beyond what can be sent anyway, a larger frame is only a longer time in which nothing else is sent.
        self.frame_bytes = min(settings.get(MAX_FRAME_SIZE, self.frame_bytes), MAX_FRAME_BYTES)
        before, self.window = self.window, settings.get(INITIAL_WINDOW_SIZE, self.window)
        return self.window - before
