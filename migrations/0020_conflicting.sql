-- no-transaction
-- The conflicting results of a call that may yet win, and those that a further callback may repeat, without reading all
-- of them (receiver/results/set_aside.py). Null: written by an earlier release, or the callback names no call.
alter table set_aside add column if not exists received_at timestamptz;
-- `last_event_at`, if that time can be true.
alter table set_aside add column if not exists possible_at timestamptz;

-- In the order in which they win, those with a possible time first.
create index concurrently if not exists set_aside_best on set_aside
    (batch_id, row, possible_at desc nulls last, (outcome = 'other'), (last_event_at is not null), received_at, callback_id)
    where reason = 'other_result_stands' and result_key is not null;
create index concurrently if not exists set_aside_key on set_aside (batch_id, row, result_key)
    where reason = 'other_result_stands' and result_key is not null;
