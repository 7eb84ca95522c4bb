"""The whole service: `app` for any threaded WSGI server, `asgi` the same with the fast intake in front.

`gunicorn -c python:receiver.server.gunicorn_conf app:asgi` runs the latter.
"""

import sys

from receiver.database.location import find_database
from receiver.environment import read_config
from receiver.errors import ReceiverError
from receiver.intake.signing_keys import check_keys_at_start
from receiver.web.app import create_app
from receiver.web.asgi import Service

try:
    config, database_url = find_database(read_config(), signs=True)
    check_keys_at_start(config, database_url)
    app = create_app(config, database_url)
    asgi = Service(app)
    app.asgi = asgi  # type: ignore[attr-defined]  # what receiver.server.worker serves instead of `app`
except ReceiverError as error:
    print(f"receiver: {error}", file=sys.stderr)
    # gunicorn stops on this status. After any other it would start the process again and again.
    sys.exit(4)
