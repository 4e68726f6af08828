"""How gunicorn serves the app: the worker, the fast path of a registration, the log."""
