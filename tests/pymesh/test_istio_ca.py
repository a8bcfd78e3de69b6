"""The CSR service's messages, byte for byte as protoc's would be."""

import pytest

from pymesh import istio_ca


def test_a_request_has_the_field_numbers_of_istios_proto() -> None:
    """1: csr (string), 3: validity_duration (int64)."""
    assert istio_ca.encode_request(istio_ca.CertificateRequest("pem", 300)) == b"\x0a\x03pem\x18\xac\x02"


def test_a_request_survives_the_wire_and_its_metadata_is_passed_over() -> None:
    """A client of a newer Istio sends metadata, field 4: it does no harm."""
    request = istio_ca.CertificateRequest("pem", 300)
    assert istio_ca.decode_request(istio_ca.encode_request(request) + b"\x22\x00") == request


def test_an_answer_keeps_the_order_of_the_chain() -> None:
    """The leaf first, the root last."""
    data = istio_ca.encode_response(["leaf", "root"])
    assert data == b"\x0a\x04leaf\x0a\x04root"
    assert istio_ca.decode_response(data) == ("leaf", "root")


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"])
def test_garbage_is_a_value_error(data: bytes) -> None:
    """A cut varint, a cut string, a string that is not UTF-8."""
    with pytest.raises(ValueError, match=r"istio\.v1\.auth"):
        istio_ca.decode_request(data)
    with pytest.raises(ValueError, match=r"istio\.v1\.auth"):
        istio_ca.decode_response(data)
