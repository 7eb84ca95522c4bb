-- Everything the service keeps. The key of each table that grows with the calls begins with
-- batch_id, so that a batch's rows lie together, are purged together, and could be distributed by it.
--
-- A row that many calls or callbacks have (call, callback, result) is written once and never
-- updated: what changes about it is another row somewhere narrow. That keeps bodies and variables
-- from being rewritten by every settlement, and leaves no dead copies of them behind.
--
-- Phone numbers are E.164 without the plus sign, as bigint: at most 15 digits, half the size of text.

-- Queueing ------------------------------------------------------------------------------------

create table batch (
    batch_id               bigint generated always as identity primary key,
    application_id         bigint not null check (application_id > 0),
    deployment_id          bigint not null check (deployment_id > 0),
    name                   text not null,
    -- What the provider is told. Null: not told, so the provider's own default holds.
    start_at               timestamptz,
    end_at                 timestamptz,
    max_attempts           smallint check (max_attempts between 1 and 10),
    reattempt_wait_seconds integer check (reattempt_wait_seconds between 60 and 86400),
    is_pci                 boolean not null,
    -- Country of a number written without one; settling reads callbacks with it, too.
    default_region         text not null,
    -- The CSV's column names after `destination`, in order.
    columns                text[] not null,
    -- Derived from the submissions' states, in the transaction that changes one of them.
    --   queueing: some submission is pending or sending;  partial: they ended differently.
    state                  text not null default 'queueing'
        check (state in ('queueing', 'queued', 'refused', 'unknown', 'partial')),
    created_at             timestamptz not null default now(),
    -- When the provider accepted the last submission that it accepted.
    queued_at              timestamptz,
    -- After this moment a call without a result is overdue. Nothing is written when it passes.
    due_at                 timestamptz not null,
    check (end_at > start_at)
);

-- One bulk_queue request. Its key is what a result_url's token carries.
create table submission (
    batch_id        bigint not null references batch on delete cascade,
    submission_no   integer not null check (submission_no > 0),
    -- pending  -> sending            a worker took it; committed before the request begins
    -- sending  -> pending            proved that no byte was sent: tried again at next_try_at
    -- sending  -> accepted | refused the provider said so
    -- sending  -> unknown            no answer, an unreadable one, or the worker died: never sent again by itself
    -- unknown  -> accepted           a callback named one of its calls, or the late answer came after all
    state           text not null default 'pending'
        check (state in ('pending', 'sending', 'accepted', 'refused', 'unknown')),
    calls           integer not null check (calls > 0),
    -- Its rows lie between these; other submissions' rows may lie there, too.
    first_row       integer not null,
    last_row        integer not null,
    -- Bytes of the CSV that is sent, header and line ends included: the multipart body's length.
    csv_bytes       bigint not null,
    tries           integer not null default 0,
    next_try_at     timestamptz not null default now(),
    -- The worker that sends or sent it. While that worker lives it holds an advisory lock on this id.
    worker_id       bigint,
    sent_at         timestamptz,
    answered_at     timestamptz,
    provider_status smallint,
    calls_queued    integer,
    error           text,
    -- The provider's answer as it came: call ids may hide in it.
    answer          text,
    primary key (batch_id, submission_no)
);
-- What a sender takes next, and what the worker looks after when another one died.
create index submission_open on submission (next_try_at) where state in ('pending', 'sending');
-- Submissions that need a person.
create index submission_in_doubt on submission (batch_id) where state in ('unknown', 'refused');

-- One row of the CSV. Written by the transaction that writes its batch; without a foreign key,
-- because checking a million of them costs more than copying the rows.
create table call (
    batch_id      bigint not null,
    phone_number  bigint not null,
    row           integer not null check (row > 0),
    submission_no integer not null,
    -- The row as it is sent: CSV, comma, minimal quoting, UTF-8; the first cell is the destination in
    -- the user's own spelling. One text is a third of the size of an array or of JSON, and is sent as it is.
    line          text not null,
    primary key (batch_id, row),
    -- Token and number name exactly one call.
    constraint number_once_in_submission unique (batch_id, submission_no, phone_number)
);
-- "What happened with this number?", over all batches.
create index call_phone_number on call (phone_number, batch_id);

-- Calls that have no final result: they are few in the end, and finding the last few of a million
-- must not read the million. refused: the submission was, so none will come.
create table outstanding (
    batch_id bigint not null,
    refused  boolean not null default false,
    row      integer not null,
    primary key (batch_id, refused, row)
) with (fillfactor = 100);

-- Rows of the CSV that were left out, as the user handed them in.
create table skipped (
    batch_id bigint not null,
    row      integer not null,
    code     text not null,
    message  text not null,
    line     text not null,
    primary key (batch_id, row)
);

-- The same key and content answer with the same batch.
create table idempotency (
    key_id          bigint not null,
    idempotency_key text not null,
    digest          bytea not null,
    batch_id        bigint not null references batch on delete cascade,
    created_at      timestamptz not null default now(),
    primary key (key_id, idempotency_key)
);
create index idempotency_batch on idempotency (batch_id);

-- Results -------------------------------------------------------------------------------------

-- The journal: each POST to a result_url, byte for byte. No foreign key: the token is proof enough,
-- and a callback for a purged batch must not fail the others of its group commit.
create table callback (
    batch_id         bigint not null,
    callback_id      bigint generated by default as identity,
    received_at      timestamptz not null,
    submission_no    integer not null,
    -- The body answers a status request of ours; it is no callback and not counted as one.
    polled           boolean not null default false,
    content_type     text not null,
    content_encoding text not null default '',
    body             bytea not null,
    primary key (batch_id, callback_id)
);
create index callback_newest on callback (callback_id);

-- Callbacks that nobody has settled. A queue: rows come with the journal's commit and go with settlement.
create table waiting (
    callback_id bigint not null,
    batch_id    bigint not null,
    received_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index waiting_oldest on waiting (callback_id);
create index waiting_batch on waiting (batch_id);

-- The last group of callbacks that each writer committed. A writer whose connection broke in the
-- middle of a commit cannot know whether it happened; whoever stores the group again compares first,
-- in the same transaction, and so stores it exactly once.
create table journal_writer (
    writer_id     uuid primary key,
    last_sequence bigint not null,
    seen_at       timestamptz not null default now()
) with (fillfactor = 50);

-- What a call came to. The key is the promise: at most one result a call.
create table result (
    batch_id         bigint not null,
    callback_id      bigint not null,
    received_at      timestamptz not null,
    queued_at        timestamptz,
    started_at       timestamptz,
    ended_at         timestamptz,
    row              integer not null,
    duration_seconds integer check (duration_seconds >= 0),
    attempts         smallint check (attempts >= 0),
    max_attempts     smallint check (max_attempts >= 0),
    polled           boolean not null default false,
    -- Null while the status is a step before the end.
    outcome          text check (outcome in ('completed', 'failed', 'canceled', 'rejected', 'other')),
    provider_status  text not null,
    primary key (batch_id, row)
);
create index result_outcome on result (batch_id, outcome, row);

-- Settled callbacks that did not become their call's result, and why. One that stands neither here
-- nor in `waiting` was applied.
create table set_aside (
    batch_id    bigint not null,
    callback_id bigint not null,
    state       text not null check (state in ('duplicate', 'conflict', 'unmatched', 'unreadable')),
    reason      text not null,
    -- The call it names; null where none was found.
    row         integer,
    primary key (batch_id, callback_id)
);
create index set_aside_state on set_aside (state, callback_id);
create index set_aside_call on set_aside (batch_id, row) where row is not null;

-- Counters, kept by the transaction that changes what they count ---------------------------------

create table batch_count (
    batch_id         bigint primary key,
    rows             integer not null default 0 check (rows >= 0),
    skipped          integer not null default 0 check (skipped >= 0),
    refused          integer not null default 0 check (refused >= 0),
    completed        integer not null default 0 check (completed >= 0),
    failed           integer not null default 0 check (failed >= 0),
    canceled         integer not null default 0 check (canceled >= 0),
    rejected         integer not null default 0 check (rejected >= 0),
    other            integer not null default 0 check (other >= 0),
    applied          integer not null default 0 check (applied >= 0),
    duplicate        integer not null default 0 check (duplicate >= 0),
    conflict         integer not null default 0 check (conflict >= 0),
    unmatched        integer not null default 0 check (unmatched >= 0),
    unreadable       integer not null default 0 check (unreadable >= 0),
    attempts         bigint not null default 0 check (attempts >= 0),
    duration_seconds bigint not null default 0 check (duration_seconds >= 0),
    first_result_at  timestamptz,
    last_result_at   timestamptz,
    -- What is left is pending or overdue: never less than nothing.
    constraint balance check (rows >= skipped + refused + completed + failed + canceled + rejected + other)
) with (fillfactor = 50);

-- Results by the quarter hour they were received in: the finest that any time zone's offset needs.
create table result_count (
    batch_id         bigint not null,
    at               timestamptz not null,
    completed        integer not null default 0 check (completed >= 0),
    failed           integer not null default 0 check (failed >= 0),
    canceled         integer not null default 0 check (canceled >= 0),
    rejected         integer not null default 0 check (rejected >= 0),
    other            integer not null default 0 check (other >= 0),
    attempts         bigint not null default 0 check (attempts >= 0),
    duration_seconds bigint not null default 0 check (duration_seconds >= 0),
    primary key (batch_id, at)
) with (fillfactor = 50);
create index result_count_at on result_count (at);

-- Around it --------------------------------------------------------------------------------------

create table api_key (
    key_id       bigint generated always as identity primary key,
    name         text not null,
    scope        text not null check (scope in ('read', 'queue', 'admin')),
    -- What a person may see of it; the rest is kept as SHA-256 only.
    prefix       text not null unique,
    digest       bytea not null,
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
create unique index api_key_name on api_key (name) where revoked_at is null;

-- Worker processes. Alive: seen lately. Sure to be gone: its advisory lock can be had.
create table worker (
    worker_id  bigint generated always as identity primary key,
    host       text not null,
    pid        integer not null,
    started_at timestamptz not null default now(),
    seen_at    timestamptz not null default now()
) with (fillfactor = 50);
