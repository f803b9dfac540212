"""The plain way: Flask behind gunicorn, the session in the worker, eight threads."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request
from peer_model import PeerModel

app = Flask(__name__)
model = PeerModel()


@app.post("/predict")
def predict() -> Response:
    """Answer a photo."""
    return jsonify(model.answer(request.files["file"].read()))


@app.get("/health")
def health() -> str:
    """Answer once the model is loaded, as the module is not imported before."""
    return "ready"
