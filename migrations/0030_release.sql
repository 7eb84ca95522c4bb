-- Release control: pace, calling hours, pause, cancel, suppression, and who changed what.
--
-- Releases 1.0.0 and 1.1.0 may go on working on these tables. They leave the new columns null; the trigger below keeps
-- them from sending what they do not know the gates of.

-- Gates of a batch -------------------------------------------------------------------------------------------------

alter table batch drop constraint batch_state_check;
alter table batch add constraint batch_state_check
    check (state in ('queueing', 'queued', 'refused', 'unknown', 'canceled', 'partial'));

-- Null: no pace.
alter table batch add column calls_per_minute integer check (calls_per_minute between 1 and 100000);
-- Calling hours, in minutes after the callee's midnight; null: none. Days: a bit mask, Monday is 1, Sunday 64.
alter table batch add column opens_minute smallint check (opens_minute between 0 and 1410);
alter table batch add column closes_minute smallint check (closes_minute between opens_minute + 30 and 1440);
alter table batch add column calling_days smallint check (calling_days between 1 and 127);
-- The one zone that the user gave for all rows; null: each row has its own.
alter table batch add column time_zone text;
alter table batch add column time_zone_column text;
-- Nothing is released while it is set.
alter table batch add column paused_at timestamptz;
-- The hour after which something unsent is refused does not count a pause.
alter table batch add column resumed_at timestamptz;
-- Once it is set, nothing becomes pending again.
alter table batch add column canceled_at timestamptz;
-- The pace's gate: nothing is released before. It means nothing if the last release is later than now: then the
-- clock was put back.
alter table batch add column next_release_at timestamptz;
alter table batch add column last_release_at timestamptz;
-- When the last of its submissions was answered, refused or withdrawn; null while something is unreleased or being sent.
alter table batch add column decided_at timestamptz;
alter table batch add column created_by text;
alter table batch add column labels jsonb not null default '{}';

-- The user's own name for a batch. A table of its own, small and local, so that it is unique over all batches.
create table external_id (
    external_id text primary key,
    batch_id    bigint not null unique references batch on delete cascade
);

-- Submissions --------------------------------------------------------------------------------------------------------

-- pending   -> withdrawn   its batch was canceled, or all of its calls are withdrawn
-- pending   -> refused     its window is over (error_code window_over), it was not sent in time (not_sent_in_time), or
--                          everybody in it was erased (erased)
-- sending   -> withdrawn   no byte was sent, and its batch was canceled meanwhile
-- unknown   -> withdrawn   a person said that it was not queued, and its batch is canceled
-- withdrawn -> accepted    a callback named one of its calls
alter table submission drop constraint submission_state_check;
alter table submission add constraint submission_state_check
    check (state in ('pending', 'sending', 'accepted', 'refused', 'unknown', 'withdrawn'));

-- The zones in which the calling hours must be open, in order. Null: the batch has no hours.
alter table submission add column time_zones text[];
-- The window that its last request named.
alter table submission add column request_start_at timestamptz;
alter table submission add column request_end_at timestamptz;
-- When its last try began; null while it is pending. The pace is counted by it.
alter table submission add column released_at timestamptz;
-- From then on, its calls without a result are overdue. Null until it is released.
alter table submission add column due_at timestamptz;
-- Its calls without a result are counted in batch_count.overdue. Set by the first worker that sees due_at pass.
alter table submission add column overdue_at timestamptz;
-- Calls that are withdrawn one by one: not in what is sent.
alter table submission add column withdrawn_calls integer not null default 0 check (withdrawn_calls >= 0);
-- Why it was refused without being sent.
alter table submission add column error_code text;

-- Calls that were withdrawn one by one; they are no longer outstanding. The calls of a submission that is withdrawn as a
-- whole have no rows here: its state stands for all of its calls that are outstanding, with the reason `canceled`.
create table withdrawn (
    batch_id bigint not null,
    row      integer not null,
    reason   text not null check (reason in ('canceled', 'suppressed', 'answered')),
    primary key (batch_id, row)
);

-- Withdrawn calls, of both kinds, that have no final result.
alter table batch_count add column withdrawn integer not null default 0 check (withdrawn >= 0);
-- Calls without a final result of submissions whose overdue_at is set. It is not in the balance below, because 1.0.0
-- settles calls without counting them here.
alter table batch_count add column overdue integer not null default 0 check (overdue >= 0);
alter table batch_count drop constraint balance;
alter table batch_count add constraint balance
    check (rows >= skipped + refused + withdrawn + completed + failed + canceled + rejected + other);

-- Whether the worker counts overdue calls. While one of 1.0.0 lives, nobody marks a submission as overdue.
alter table worker add column counts_overdue boolean not null default false;

-- Releases 1.0.0 and 1.1.0 neither know these gates nor write due times. They send and refuse without saying when, or
-- why; so this finds it out. What has gates, or a call that must not be made, waits for a newer worker. The rest gets
-- the batch's due time.
create function keep_gates() returns trigger language plpgsql as $$
declare
    of_batch batch%rowtype;
begin
    select * into of_batch from batch where batch_id = new.batch_id;
    if num_nonnulls(of_batch.calls_per_minute, of_batch.opens_minute, of_batch.paused_at, of_batch.canceled_at) > 0
        or new.withdrawn_calls > 0
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
create trigger keep_gates before update on submission for each row
    when (old.state = 'pending' and new.state in ('sending', 'refused') and new.error_code is null
        and new.released_at is not distinct from old.released_at)
    execute function keep_gates();

-- Canceling a deployment ---------------------------------------------------------------------------------------------

-- A request to the provider to cancel every pending call of a deployment: written by whoever asked for it, made by a
-- worker. While it is `waiting` or `asking`, nothing of the deployment is released.
create table deployment_cancel (
    cancel_id       bigint generated always as identity primary key,
    application_id  bigint not null,
    deployment_id   bigint not null,
    -- waiting -> asking                        nothing of the deployment is being sent any more
    -- waiting -> sending                       something still was after a minute: not asked
    -- asking  -> accepted | refused | unknown  the provider's answer; unknown, too, if the worker died
    state           text not null default 'waiting'
        check (state in ('waiting', 'asking', 'sending', 'accepted', 'refused', 'unknown')),
    requested_by    text not null,
    requested_at    timestamptz not null default now(),
    worker_id       bigint,
    answered_at     timestamptz,
    provider_status smallint,
    error           text
);
create index deployment_cancel_open on deployment_cancel (application_id, deployment_id)
    where state in ('waiting', 'asking');

-- Suppressions -------------------------------------------------------------------------------------------------------

-- Numbers that must not be called.
create table suppression (
    suppression_id bigint generated always as identity primary key,
    -- Null: erased.
    phone_number   bigint unique,
    -- HMAC-SHA-256 of the number as text (E.164 without its plus sign), so that an erased number is still not called.
    digest         bytea not null unique,
    reason         text,
    note           text,
    created_by     text not null,
    created_at     timestamptz not null default now()
);
create index suppression_erased on suppression (digest) where phone_number is null;

-- The key of these digests: made here, never changed, so that digests stay comparable. gen_random_uuid takes its bits
-- from the operating system's generator of keys.
create table suppression_key (
    is_only boolean primary key default true check (is_only),
    key     bytea not null
);
insert into suppression_key (key)
select sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));

-- Audit --------------------------------------------------------------------------------------------------------------

-- Who changed what, written by the transaction that makes the change. Of a phone number only the last two digits.
create table audit (
    audit_id      bigint generated always as identity primary key,
    at            timestamptz not null default now(),
    -- An API key's name, `command line`, or `system`.
    actor         text not null,
    action        text not null,
    batch_id      bigint,
    submission_no integer,
    -- What else names the subject: other ids, names, counts.
    details       jsonb not null default '{}',
    note          text
);
create index audit_actor on audit (actor, audit_id);
create index audit_action on audit (action, audit_id);
create index audit_at on audit (at);
