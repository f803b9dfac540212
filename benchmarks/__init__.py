"""What the figures of docs/benchmarks.md are measured with: ``python -m benchmarks.X``.

accuracy    how good the answers are: average precision on photos with known boxes
startup     how soon a server answers, and what its front holds in memory
throughput  answers a second, against the same work without a server
overhead    what HTTP, queue and processes add to a call that does next to nothing
memory      what thousands of requests leave behind
page        how soon a browser paints the page, and what it loads
peers       the same graph behind Flask with gunicorn and behind LitServe, in turns
all         all but the first, one after the other; then the tables and plots
"""
