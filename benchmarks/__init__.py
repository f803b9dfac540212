"""What the figures of docs/benchmarks.md are measured with: ``python -m benchmarks.X``.

accuracy    how good the answers are: average precision on photos with known boxes
startup     how soon a server answers, and what its front holds in memory
throughput  answers a second, against the same work without a server
overhead    what HTTP, queue and processes add to a call that does next to nothing
memory      what thousands of requests leave behind
page        how soon a browser paints the page, and what it loads
peers       the same graph behind Flask with gunicorn and behind LitServe, in turns
client      a folder of photos through modelserver.client, against the server's best
all         startup to memory and peers, one after the other; then the tables and plots

And those of docs/reliability.md:

overload      two and ten times what can be answered
slow_clients  500 slow or silent connections, behind nginx
chaos         every fault in turn, at 70 % load
soak          ten minutes of everything that clients do
"""
