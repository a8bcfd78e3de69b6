"""Answers, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.answers import MAX_HEAD, Answer, AnswerReader, BadAnswerError

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"x-sum: 1\r\nx-time: 2\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + LENGTH
GOOD = [
    (LENGTH, Answer(200, 5, last=False)),
    (CHUNKED, Answer(200, 15, last=False)),
    (TRAILERS, Answer(200, 15, last=False)),
    (INTERIM, Answer(200, 5, last=False)),
    (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, 0, last=False)),
    (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", Answer(304, 0, last=False)),
    (b"HTTP/1.1 503 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n", Answer(503, 0, last=True)),
    (b"HTTP/1.1 200\r\nConnection: x, Close\r\ncontent-length: 1\r\n\r\na", Answer(200, 1, last=True)),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", Answer(200, 1, last=True)),
    (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", Answer(200, 1, last=False)),
]


@pytest.mark.parametrize(("data", "answer"), GOOD)
def test_at_every_split_point(data: bytes, answer: Answer) -> None:
    for cut in range(len(data)):
        reader = AnswerReader()
        assert reader.feed(data[:cut]) is None
        assert reader.feed(data[cut:]) == answer
        assert reader.feed(LENGTH) == GOOD[0][1]  # the next one


@given(st.lists(st.sampled_from(GOOD), min_size=1, max_size=4), st.data())
def test_one_after_the_other_in_any_pieces(answers: list[tuple[bytes, Answer]], data: st.DataObject) -> None:
    reader = AnswerReader()
    for sent, answer in answers:
        at, found = 0, None
        while found is None:
            taken = data.draw(st.integers(1, len(sent) - at))
            found = reader.feed(sent[at : at + taken])
            at += taken
        assert (at, found) == (len(sent), answer)


def test_a_body_until_the_close() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nsome") is None
    assert reader.feed(b" more") is None
    assert reader.end() == Answer(200, 9, last=True)


def test_answers_to_head_have_no_body() -> None:
    reader = AnswerReader(answer_to_head=True)
    assert reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") == Answer(200, 0, last=False)


def test_the_end_between_answers_is_none() -> None:
    reader = AnswerReader()
    reader.feed(LENGTH)
    assert reader.end() is None


@pytest.mark.parametrize("data", [LENGTH[:-1], LENGTH[:10], CHUNKED[:-1], INTERIM[:50]])
def test_the_end_within_an_answer_is_an_error(data: bytes) -> None:
    reader = AnswerReader()
    reader.feed(data)
    with pytest.raises(BadAnswerError, match="midst"):
        reader.end()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/2 200 OK\r\n\r\n", "status line"),
        (b"220 smtp.example ESMTP\r\n\r\n", "status line"),
        (b"HTTP/1.1 99 Low\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
        (LENGTH + b"!", "more bytes"),
        (CHUNKED + b"HTTP/1.1", "more bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", "more than one way"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "more than one way"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * MAX_HEAD, "more than"),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadAnswerError, match=reason):
        AnswerReader().feed(data)
