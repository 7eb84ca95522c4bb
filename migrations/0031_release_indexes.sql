-- no-transaction
-- What a worker claims next: the batches with something to send, and of each the submission that is due first.
create index concurrently if not exists batch_queueing on batch (batch_id) where state = 'queueing';
create index concurrently if not exists submission_pending on submission (batch_id, next_try_at, submission_no)
    where state = 'pending';
-- What was released in the last minute, for the pace.
create index concurrently if not exists submission_released on submission (batch_id, released_at);
-- Whose calls become overdue next.
create index concurrently if not exists submission_due on submission (due_at)
    where overdue_at is null and state in ('accepted', 'unknown');
-- Nothing is read through these any more.
drop index concurrently if exists batch_unnoticed;
create index concurrently if not exists batch_label on batch using gin (labels jsonb_path_ops);
