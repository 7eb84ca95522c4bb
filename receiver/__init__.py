"""The result_url receiver: what became of every call we queued?

Three paths, three rooms, and data that only walks forward:

1. Queue (`receiver.queueing`): a CSV becomes a batch, its submissions and its calls, in one
   transaction; the worker then sends each submission to the provider, once.
2. Take a callback (`receiver.results`): a POST to a `result_url` is journaled byte for byte
   before it is answered, and settled afterwards: parsed, matched to its call, counted.
3. Read (`receiver.summary`): the balance, lists and exports, over REST and in dashboards.
"""

__version__ = "1.0.0"
