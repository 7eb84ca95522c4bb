"""The name that release 1.0.0 gave gunicorn's settings; deployments name it in their command line."""

from receiver.server.gunicorn_conf import *  # noqa: F403 gunicorn takes every name as a setting or a hook
