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

-- Releases 1.0.0 and 1.1.0 do not withdraw what was answered: a follow-up, too, waits for a newer worker (0035).
create or replace function keep_gates() returns trigger language plpgsql as $$
declare
    of_batch batch%rowtype;
begin
    select * into of_batch from batch where batch_id = new.batch_id;
    if num_nonnulls(of_batch.calls_per_minute, of_batch.opens_minute, of_batch.paused_at, of_batch.canceled_at,
            of_batch.follows) > 0
        or new.withdrawn_calls > 0
        or exists (select from deployment_cancel d where d.application_id = of_batch.application_id
            and d.deployment_id = of_batch.deployment_id and d.state in ('waiting', 'asking'))
        or exists (select from suppression where phone_number is null)
        or exists (select from call join suppression using (phone_number)
            where call.batch_id = new.batch_id and call.submission_no = new.submission_no) then
        return null;
    end if;
    if new.state = 'sending' then
        new.released_at := now();
        new.due_at := of_batch.due_at;
    end if;
    return new;
end
$$;
