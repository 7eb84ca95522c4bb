-- What is delivered to the team's own services: endpoints, the events that are owed to them, what became of these events,
-- and the feed of results.

-- Tables that grow with the events are partitioned by a slot: two days have the same slot, and a slot is used again after
-- 34 days. Before that, its partition is emptied (`truncate`). So no partition is ever created, attached or missing.
create function slot_of(moment timestamptz) returns smallint language sql immutable
    return (floor(extract(epoch from moment) / 172800)::bigint % 17)::smallint;

create table endpoint (
    endpoint_id     bigint generated always as identity primary key,
    -- Null: the people who are notified by NOTIFY_URLS. There is at most one such row.
    url             text,
    description     text,
    -- Which events are owed to it, and of which batches; null: of all.
    events          text[] not null,
    application_id  bigint,
    deployment_id   bigint,
    label_name      text,
    label_value     text,
    -- Of signatures. The previous secret signs too until `previous_until`.
    secret          text not null,
    previous_secret text,
    previous_until  timestamptz,
    created_at      timestamptz not null default now(),
    -- While it is disabled, events are owed to it, and wait.
    disabled_at     timestamptz,
    -- `user`, `gone` (it answered 410) or `failing` (for a week)
    disabled_reason text,
    -- The first failure since the last success.
    failing_since   timestamptz
);
create unique index endpoint_people on endpoint ((true)) where url is null;

-- Counters of an endpoint, by the slot in which its events were owed: owed = delivered + given_up + rows of owed_event.
-- Slot -1 has the sums of the slots that were emptied.
create table endpoint_count (
    endpoint_id bigint not null,
    slot        smallint not null,
    owed        bigint not null default 0,
    delivered   bigint not null default 0,
    given_up    bigint not null default 0,
    primary key (endpoint_id, slot)
);

create sequence event_id;

-- A queue: the events that wait for their delivery. Written by the transaction that causes the event. `subject`: the row
-- of a call, the number of a submission, or the id of a callback.
create table owed_event (
    endpoint_id bigint not null,
    event_id    bigint not null default nextval('event_id'),
    slot        smallint not null default slot_of(now()),
    event       text not null,
    batch_id    bigint not null,
    subject     bigint,
    owed_at     timestamptz not null default now(),
    next_try_at timestamptz not null default now(),
    -- The attempts that failed: objects with at, status, duration_seconds and error.
    attempts    json,
    primary key (endpoint_id, event_id, slot)
) partition by list (slot);
create index owed_event_next on owed_event (endpoint_id, next_try_at);

-- A log: the events that were delivered or given up. In the slot in which they were owed.
create table delivery (
    endpoint_id bigint not null,
    event_id    bigint not null,
    slot        smallint not null,
    event       text not null,
    batch_id    bigint not null,
    subject     bigint,
    owed_at     timestamptz not null,
    ended_at    timestamptz not null default now(),
    -- `delivered` or `given_up`
    state       text not null,
    attempts    json,
    -- Lists of an endpoint, of one state, newest first.
    primary key (endpoint_id, state, event_id, slot)
) partition by list (slot);

-- A queue: calls of a batch whose results were settled or changed by one transaction, and which have no position in the
-- feed yet. Identity values commit out of order, so one process at a time gives the positions.
create table changed_results (
    change_id  bigint generated always as identity primary key,
    batch_id   bigint not null,
    rows       integer[] not null,
    changed_at timestamptz not null default now()
);

-- The feed. An entry has several calls; a place in the feed is a position and an index in `rows`.
create table feed_entry (
    position bigint not null,
    slot     smallint not null default slot_of(now()),
    batch_id bigint not null,
    given_at timestamptz not null default now(),
    rows     integer[] not null,
    primary key (position, slot)
) partition by list (slot);

-- One row. `epoch` is part of each cursor; it changes after a restore, because positions are given again then. Entries up
-- to `expired_position` were removed.
create table feed (
    only_row         boolean primary key default true check (only_row),
    epoch            bigint not null default (random() * 1000000000000)::bigint,
    last_position    bigint not null default 0,
    expired_position bigint not null default 0
);
insert into feed default values;

do $$
declare
    parent text;
    app text;
begin
    foreach parent in array array['owed_event', 'delivery', 'feed_entry'] loop
        for slot in 0..16 loop
            execute format('create table %I partition of %I for values in (%s)', parent || '_' || slot, parent, slot);
        end loop;
    end loop;
    -- What the role of the service needs besides reading and writing rows (deploy/roles.sql).
    for app in select grantee from information_schema.table_privileges where table_schema = current_schema()
        and table_name = 'callback' and privilege_type = 'DELETE' and grantee not in ('PUBLIC', current_user)
    loop
        execute format('grant usage on sequence event_id to %I', app);
        for slot in 0..16 loop
            execute format('grant truncate on owed_event_%1$s, delivery_%1$s, feed_entry_%1$s to %2$I', slot, app);
        end loop;
    end loop;
end
$$;

-- When the next slot is emptied: once an hour, it is made sure that the slot of tomorrow and the day after is empty.
insert into upkeep (task, next_at) values ('slots', now());
