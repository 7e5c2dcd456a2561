"""The OpenAI-compatible HTTP server, in the control plane's own process.

`connection.py` speaks HTTP/1.1 with whoever answers (`application.py`), `server.py` listens and
drains, `app.py` decides who may do what; one file for each thing that can be asked for. Nothing in
here takes a second hop: a request is parsed in the event loop and handed to the plane, whose threads
wake the loop when tokens are there.
"""
