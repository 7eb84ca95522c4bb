-- no-transaction
-- The batches of a lineage, and the follow-ups of a batch.
create index concurrently if not exists batch_lineage on batch (first_batch_id, follows) where first_batch_id is not null;
