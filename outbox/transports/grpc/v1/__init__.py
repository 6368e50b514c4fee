"""The declared form of messages over gRPC, `messages.proto`, and the code made from it."""
