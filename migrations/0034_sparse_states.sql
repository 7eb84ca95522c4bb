-- no-transaction
-- What is being sent: what a worker has in progress, and what a dead one left.
create index concurrently if not exists submission_sending on submission (worker_id) where state = 'sending';
-- How many submissions, and how many calls, are unreleased; how many submissions were withdrawn as a whole.
create index concurrently if not exists submission_unreleased on submission (batch_id) include (calls, withdrawn_calls)
    where state = 'pending';
create index concurrently if not exists submission_withdrawn on submission (batch_id) where state = 'withdrawn';
-- The suppressions with one reason, newest first.
create index concurrently if not exists suppression_reason on suppression (reason, suppression_id)
    where reason is not null;
