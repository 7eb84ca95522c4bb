"""The whole service: `app` for any threaded WSGI server, `asgi` the same with the fast intake in front.

`gunicorn -c python:receiver.server.gunicorn_conf app:asgi` runs the latter.
"""

import sys

from receiver.database.location import find_database
from receiver.environment import read_config
from receiver.errors import ReceiverError
from receiver.server.served import EXTENSION
from receiver.server.startup_checks import check_keys
from receiver.web.app import create_app
from receiver.web.asgi import Service

try:
    config, database_url = find_database(read_config(), signs=True)
    check_keys(config, database_url)
    app = create_app(config, database_url)
    asgi = Service(app)
    app.extensions[EXTENSION] = asgi  # what our own gunicorn worker serves instead
except ReceiverError as error:
    print(f"receiver: {error}", file=sys.stderr)
    # gunicorn gives up on this status; it would start a process that ends with any other again and again.
    sys.exit(4)
