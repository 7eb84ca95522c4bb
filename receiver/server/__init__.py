"""How requests reach the applications: gunicorn's settings, its worker, and the connections of an event loop."""
