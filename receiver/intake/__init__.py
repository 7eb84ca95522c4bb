"""Stores callbacks durably: token, journal, spool, and the two entry points (ASGI and WSGI) that use them."""
