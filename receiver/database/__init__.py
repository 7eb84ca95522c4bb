"""Postgres: one to connect to, the schema in it, and connections that notice when it is gone.

* `embedded`: a server of our own under `DATA_DIR`, for a machine without `DATABASE_URL`
* `migrations`: the numbered files of `migrations/`, applied once each, checked before every start
* `pool`: connections for threads, with one error for "the database is away"
"""
