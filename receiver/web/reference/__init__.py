"""The API's reference: its description (`/openapi.json`), and the page that shows it (`/docs`).

`codes` names every failure, `samples` shows requests in three languages, `outside` describes what stands beside
`/api/v1`, `examples.json` holds answers that were really given; `receiver.web.openapi` puts them together.
"""
