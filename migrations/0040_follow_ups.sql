-- Follow-ups: batches made of calls of an earlier batch that did not reach anybody.

-- The earlier batch, and the first batch of its lineage. Null: the batch follows none. The ids stay when the batches that
-- they name are purged.
alter table batch add column follows bigint;
alter table batch add column first_batch_id bigint;
-- How many rows of the earlier batch were not chosen, by reason.
alter table batch add column left_out json;

-- A call (batch_id, row) and the call that follows it up. The key is the promise: each call is followed up once.
create table follow_up (
    batch_id      bigint not null,
    row           integer not null,
    next_batch_id bigint not null,
    next_row      integer not null,
    primary key (batch_id, row)
);
-- The earlier call of a follow-up.
create index follow_up_next on follow_up (next_batch_id, next_row);
