"""A door that speaks gRPC: the Open Inference Protocol, health and reflection.

It is a process of its own, which gunicorn's arbiter keeps if ``GRPC_PORT`` is set, and
talks to the same engine as the doors for HTTP. Its packages (``requirements-grpc.txt``)
are imported in no other process.
"""
