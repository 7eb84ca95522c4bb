-- What a person has seen, so that it is no longer listed as needing attention.

-- Callbacks that were not applied. A row counts only while the callback is in the state in which it was seen.
create table acknowledged (
    batch_id        bigint not null,
    callback_id     bigint not null,
    state           text not null,
    acknowledged_at timestamptz not null default now(),
    primary key (batch_id, callback_id)
);

-- Of a refused submission.
alter table submission add column acknowledged_at timestamptz;
-- How many of a batch's overdue calls were seen.
alter table batch_count add column acknowledged_overdue integer not null default 0;
