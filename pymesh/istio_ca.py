"""The messages of `istio.v1.auth.IstioCertificateService/CreateCertificate`: a CSR in, a certificate chain out.

No package ships them, so they are built here from their descriptors, as protoc would have.
Source: istio.io/api, security/v1alpha1/ca.proto.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.message import DecodeError, Message

SERVICE: Final = "istio.v1.auth.IstioCertificateService"
METHOD: Final = "CreateCertificate"
PATH: Final = f"/{SERVICE}/{METHOD}"


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """IstioCertificateRequest. `csr` is PEM; `validity_duration` is in seconds, 0 leaves it to the authority."""

    csr: str
    validity_duration: int = 0


def encode_request(request: CertificateRequest) -> bytes:
    """`request` as it travels."""
    return _REQUEST(csr=request.csr, validity_duration=request.validity_duration).SerializeToString()


def decode_request(data: bytes) -> CertificateRequest:
    """The request in `data`; its `metadata`, which only a gateway on behalf of others would use, is not read.

    Raises:
        ValueError: `data` is no such message.
    """
    message = _decode(_REQUEST, data)
    return CertificateRequest(getattr(message, "csr"), getattr(message, "validity_duration"))  # noqa: B009  fields of a message class made at run time


def encode_response(chain: Iterable[str]) -> bytes:
    """The answer with the certificates of `chain` (PEM, one each: the leaf first, the root last)."""
    return _RESPONSE(cert_chain=chain).SerializeToString()


def decode_response(data: bytes) -> tuple[str, ...]:
    """The chain in an answer, as in `encode_response`.

    Raises:
        ValueError: `data` is no such message.
    """
    return tuple(getattr(_decode(_RESPONSE, data), "cert_chain"))  # noqa: B009  as above


def _decode(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a message of {SERVICE}: {error}") from error


def _message_classes() -> tuple[type[Message], type[Message]]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto",
        package="istio.v1.auth",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    request = file.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    request.field.add(
        name="metadata",
        number=4,
        type=field.TYPE_MESSAGE,
        type_name=".google.protobuf.Struct",
        label=field.LABEL_OPTIONAL,
    )
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    # A pool of its own: another package that brings the real ca.proto must not clash with this one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    classes = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"istio.v1.auth.{name}"))
        for name in ("IstioCertificateRequest", "IstioCertificateResponse")
    )
    return next(classes), next(classes)


_REQUEST, _RESPONSE = _message_classes()
