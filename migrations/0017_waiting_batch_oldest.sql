-- no-transaction
-- What one batch waits for, the oldest first: a crowded batch is settled from its own end of the queue.
create index concurrently if not exists waiting_batch_oldest on waiting (batch_id, callback_id);
drop index concurrently if exists waiting_batch;
