"""The server: a gateway without transport, gRPC and HTTP in front of it, engines behind it, hosted locally or on Ray Serve."""
