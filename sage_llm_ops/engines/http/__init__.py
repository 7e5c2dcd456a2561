"""Any OpenAI-compatible server as a worker: fleets that already run.

options.py    what a user may say about it          dialects.py  what kinds of servers can
body.py       a node as an HTTP request             answers.py   the JSON that comes back
sse.py        bytes to events of a stream           reading.py   events to tokens and one end
server.py     one server's client, and its identity session.py   one life of a worker
worker.py     the `Worker` protocol                 thread.py    the one event loop of them all
"""
