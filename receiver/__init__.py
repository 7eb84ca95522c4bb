"""The result_url receiver: queues phone calls and records the result of each.

Three paths, and data that only moves forward:

1. Queue (`receiver.queueing`): a CSV becomes a batch, its submissions and its calls, in one transaction. The worker
   then sends each submission to the provider, once (`receiver.release`).
2. Receive a callback (`receiver.intake`): a POST to a `result_url` is stored byte for byte before it is answered.
   It is settled afterwards (`receiver.results`): parsed, matched to its call, counted.
3. Read (`receiver.summary`): the balance, lists and exports, over REST and in dashboards.
"""

__version__ = "1.1.0"
