"""HTTP/2 (RFC 9113), sans-IO: the codec of both ends of a connection, strict and bounded.

Enter at `connection.Connection`. From the wire inwards: `frames` cuts bytes into frames; `header_blocks` (HPACK) and
`messages` make of their payloads what is well-formed; `stream_table` and `streams` know what may come where;
`flow_control`, `settings` and `floods` how much. `sending` is the way out. `events` is what it all comes to.
"""
