-- no-transaction
-- What was tried in vain and waits: its hour ends when the provider accepts another submission of the batch.
create index concurrently if not exists submission_tried on submission (batch_id)
    where state = 'pending' and sent_at is not null;
