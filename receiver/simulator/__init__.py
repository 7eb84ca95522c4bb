"""The simulated provider: the same addresses and answers as the real one, and faults on demand.

A request passes through one file after another: `app` (HTTP) reads it with `forms`; `calls` draws what happens to each
call of the `submission`, and `exchange` lets it happen in time. `faults` draws what goes wrong, `bodies` writes what is
POSTed, and `delivery` sends it. `ledger` counts it, so that a test can compare what was sent with what was received.
`store` keeps unfinished submissions for the next process. `server` starts and stops it all.

It simulates an external system, so it shares no code with the packages that it tests.
"""
