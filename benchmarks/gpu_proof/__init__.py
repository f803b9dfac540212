"""A proof, on somebody's own card, of all that was built without one.

    python -m benchmarks.gpu_proof [--cpu] [--quick] [--out gpu-proof.json]

``script/gpu-proof`` sets up what is missing and starts this. Some 12 minutes; it stops
at the first step that is not as expected, prints a table, and leaves a JSON file.
"""
