"""gRPC over HTTP/2 without IO: bytes in, events out; calls in, bytes out.

Enter at `client.ClientConnection` and `server.ServerConnection`. They speak gRPC and know HTTP/2 only through the
narrow `engine.Engine`, which `h2_engine.H2Engine` implements. `framing`, `metadata` and `status` are the codecs, pure.
Source: PROTOCOL-HTTP2.md of the gRPC project; RFC 9113.
"""
