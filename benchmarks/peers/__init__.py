"""What others would write: each stores a callback and gives its call the result, one commit a request.

Same table shapes, same indexes, same bodies, same Postgres; tuned as their own guides say.
"""
