"""What a peer says of itself."""

import pytest

from pymesh.http2 import frames, settings
from pymesh.http2.errors import ConnectionBrokenError, ErrorCode
from pymesh.http2.settings import PeerSettings


def payload(*pairs: tuple[int, int]) -> bytes:
    return frames.settings(pairs)[frames.HEADER_BYTES :]


def test_the_last_value_counts_and_what_nobody_knows_is_kept() -> None:
    assert settings.read(payload((4, 1), (0x99, 7), (4, 2))) == {4: 2, 0x99: 7}


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (settings.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (settings.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (settings.MAX_FRAME_SIZE, 16383, ErrorCode.PROTOCOL_ERROR),
        (settings.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_values_that_cannot_be(setting: int, value: int, code: ErrorCode) -> None:
    with pytest.raises(ConnectionBrokenError) as caught:
        settings.read(payload((setting, value), (setting, 16384)))
    assert caught.value.code is code


def test_limits_of_streams_before_and_after_the_first_word() -> None:
    peer = PeerSettings()
    assert peer.streams == 100
    peer.change({})
    assert peer.streams == 2**32
    peer.change({settings.MAX_CONCURRENT_STREAMS: 3})
    peer.change({})
    assert peer.streams == 3


def test_a_window_changes_by_the_difference() -> None:
    peer = PeerSettings()
    assert [peer.change({settings.INITIAL_WINDOW_SIZE: size}) for size in (65_535, 70_000, 0)] == [0, 4465, -70_000]
    assert peer.change({}) == 0


def test_larger_frames_are_not_sent_though_they_were_taken() -> None:
    peer = PeerSettings()
    peer.change({settings.MAX_FRAME_SIZE: 2**24 - 1})
    assert peer.frame_bytes == frames.MAX_FRAME_BYTES


def test_what_we_say() -> None:
    client = settings.ours(client=True, streams=5, window=6, header_bytes=7)
    server = settings.ours(client=False, streams=5, window=6, header_bytes=7)
    assert client == [(1, 0), (2, 0), (4, 6), (6, 7)]
    assert server == [(1, 0), (3, 5), (4, 6), (6, 7)]
