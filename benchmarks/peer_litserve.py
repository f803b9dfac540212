"""LitServe with a worker for each core and one thread each: its best on a CPU."""

# ruff: noqa: ANN001, ANN201, ARG002 - LitServe takes hints and names for rules

import os
import sys

import litserve
from peer_model import PeerModel


class Photos(litserve.LitAPI):
    """Answers a form's file."""

    def setup(self, device):
        """Load the model; called in each worker."""
        self.model = PeerModel(intra=1, inter=2)

    def decode_request(self, request):
        """Take the file out of the form."""
        return request["file"].file.read()

    def predict(self, file):
        """Answer a photo."""
        return self.model.answer(file)

    def encode_response(self, output):
        """Pass the answer on; it is JSON already."""
        return output


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    server = litserve.LitServer(Photos(), accelerator="cpu", workers_per_device=cores)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="error",
    )
