-- Settlement that hostile callbacks cannot hold up: bounded groups, fair batches, and no body that is read twice.
-- Release 1.0.0 may go on working on these tables; it leaves the new columns null.

-- Bytes that its body takes in the journal, so that a group can be bounded before its bodies are read. Null: written by
-- 1.0.0.
alter table waiting add column body_bytes integer;

-- What the decision needs about a callback that was not applied (receiver/results/standing.py). Without a key: written
-- by 1.0.0, or the callback names no call.
alter table set_aside add column result_key bytea;
alter table set_aside add column outcome text;
alter table set_aside add column last_event_at timestamptz;

-- The same for the callback that was applied; the row's other columns give the rest. The first moment of the year 1: it
-- has no time that could be read. Null: written by 1.0.0.
alter table result add column last_event_at timestamptz;

-- 1.0.0 replaces the callback of a result and does not know that column, so the time would be the earlier callback's.
create function forget_last_event() returns trigger language plpgsql as $$
begin
    new.last_event_at := null;
    return new;
end
$$;
create trigger forget_last_event before update on result for each row
    when (old.callback_id <> new.callback_id and old.last_event_at is not distinct from new.last_event_at)
    execute function forget_last_event();

-- Groups of callbacks that are being settled, committed before their bodies are read: so that a group which killed its
-- worker is known to the next one (receiver/results/groups.py). It means nothing once none of its callbacks waits.
create table settling (
    group_id     uuid primary key,
    callback_ids bigint[] not null,
    -- How often it was begun.
    tries        smallint not null,
    begun_at     timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
alter table settling alter column callback_ids set storage external;
