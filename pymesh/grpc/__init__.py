"""gRPC over HTTP/2 without IO: bytes in, events out; calls in, bytes out.

Enter at `client.ClientConnection` and `server.ServerConnection`. They speak gRPC and leave HTTP/2 to
`pymesh.http2.connection`. `framing`, `metadata` and `status` are the codecs, pure.
Source: PROTOCOL-HTTP2.md of the gRPC project; RFC 9113.
"""
