"""The API's reference: its description (`/openapi.json`), and the page that shows it (`/docs`).

`introduction.md` is its first text, `codes` names every failure, `requests/` has sample requests in three languages,
`outside` describes the paths outside `/api/v1`, and `examples.json` contains recorded answers. `receiver.web.openapi`
puts them together.
"""
