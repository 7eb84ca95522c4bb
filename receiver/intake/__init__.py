"""From a POST to a `result_url` to a durable row: token, journal and spool, and the two entry points that use them."""
