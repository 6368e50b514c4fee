"""The orchestrator's API over gRPC: each call is a request to the routes that HTTP has."""
