"""The provider, pretended: the same addresses, the same answers, and faults on demand.

A request walks forward through one file each: `app` (HTTP) reads it with `forms`, `exchange` dials
it on the `timeline` of a submission, each call living the life that `calls` drew for it; `faults`
says what goes wrong, `bodies` writes what is POSTed, `delivery` sends it, and `ledger` remembers,
so that a test can compare what was sent with what was kept. `store` keeps what is under way for the next process.
`server` starts and stops the whole.

It stands for somebody else's system: it shares no code with the packages it is used to test.
"""
