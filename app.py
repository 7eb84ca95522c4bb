"""The WSGI app, for any WSGI server: `gunicorn -c python:receiver.web.gunicorn_conf app:app`."""

import sys

from receiver.config import Config
from receiver.database.location import find_database
from receiver.errors import ReceiverError
from receiver.web.app import create_app
from receiver.web.prerequisites import check_keys

try:
    config, database_url = find_database(Config.from_env(), signs=True)
    check_keys(config, database_url)
    app = create_app(config, database_url)
except ReceiverError as error:
    print(f"receiver: {error}", file=sys.stderr)
    # gunicorn gives up on this status; it would start a process that ends with any other again and again.
    sys.exit(4)
