"""gRPC: the Open Inference Protocol v2. Only `extra` may be imported where the extra `grpc` is not installed."""
