"""What both planes of the mesh share: names, identity, xDS, gRPC framing. No sockets, no event loop."""
