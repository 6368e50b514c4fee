"""The declared form of the API over gRPC, `runs.proto`, and the code made from it."""
