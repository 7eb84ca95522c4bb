"""The API's reference: its description (`/openapi.json`), and the page that shows it (`/docs`).

`codes` names every failure, `samples` shows requests in three languages, `outside` describes the paths
outside `/api/v1`, and `examples.json` contains recorded answers. `receiver.web.openapi` puts them together.
"""
