"""A proof, on somebody's own card, of all that was built without one.

    python -m benchmarks.gpu_proof [--cpu] [--quick] [--out gpu-proof.json]

``script/gpu-proof`` sets up what is missing and starts this. Some 12 minutes; it stops
at the first step that is not as expected, with what was expected and what was seen,
prints a table, and leaves a JSON file to send.

    outcomes   what a step found, what it expected, and the table of all
    photos     fifty photos, made of the samples
    cards      what the driver, the kernel and ``/dev`` show
    servers    a server under proof, its models, processes and log
    worker     what needs TensorFlow, in a process of its own
    holder     a process that takes a card's memory
    judging    the expectations, as functions of what was measured
    plans      what is to be proved, and what the steps share
    mishaps    the steps that do harm
    steps      the others, and the order of all
"""
