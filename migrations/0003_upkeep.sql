-- What looks after batches later in their life: doubts that a person resolves, calls that become overdue,
-- results that are fetched because nobody delivered them, and batches that are old enough to go.

-- Doubts -----------------------------------------------------------------------------------------

-- A person said what became of a submission whose answer was lost:
--   unknown -> accepted   it was queued after all
--   unknown -> pending    it was not: sent again, as another try
--   unknown -> refused    it was not, and its window is over
create table resolution (
    batch_id        bigint not null,
    submission_no   integer not null,
    -- The try in doubt. Its own answer may yet come, and must not be taken for that of a later one.
    tries           integer not null,
    queued          boolean not null,
    note            text not null,
    resolved_by     text not null,
    resolved_at     timestamptz not null default now(),
    -- What is known of that try's answer: at first what the submission showed when it was in doubt.
    provider_status smallint,
    calls_queued    integer,
    error           text,
    answer          text,
    -- Once its answer came after all: what it proved, as a state of the submission or `not_sent`.
    late_state      text,
    late_at         timestamptz,
    primary key (batch_id, submission_no, tries),
    foreign key (batch_id, submission_no) references submission on delete cascade
);

-- Overdue ----------------------------------------------------------------------------------------

-- Whether the log has told of this batch's overdue calls. Pages never ask: they compare due_at.
alter table batch add column overdue_noticed boolean not null default false;
create index batch_unnoticed on batch (due_at) where not overdue_noticed;

-- Fetched results --------------------------------------------------------------------------------

-- Whether the call ids in its answer were looked for, once its calls were overdue.
alter table submission add column polls_planned boolean not null default false;
create index submission_unplanned on submission (batch_id) where answer is not null and not polls_planned;

-- Overdue calls that the provider is asked about, because its answer to bulk_queue held their ids.
create table poll (
    batch_id        bigint not null,
    row             integer not null,
    submission_no   integer not null,
    call_id         text not null,
    tries           integer not null default 0,
    -- Null: not asked again. Moved on before each request, so that one that never ends holds up nothing.
    next_try_at     timestamptz default now(),
    provider_status smallint,
    error           text,
    primary key (batch_id, row)
) with (fillfactor = 70);
create index poll_due on poll (next_try_at) where next_try_at is not null;

-- Of what is set aside, only callbacks count; a fetched body is none.
alter table set_aside add column polled boolean not null default false;

-- Final results that were fetched: calls whose callback never came.
alter table batch_count add column polled integer not null default 0 check (polled >= 0);

-- Retention --------------------------------------------------------------------------------------

-- Batches that are being purged. The row comes in the transaction that deletes the batch's own, and goes with
-- the last of what lay under it: whoever finds one goes on from where another was killed.
create table purge (
    batch_id         bigint primary key,
    -- Callbacks up to here belong to the batch; later ones found it gone and are kept as unmatched.
    last_callback_id bigint not null,
    started_at       timestamptz not null default now()
);

-- What workers do only so often among all of them: whoever moves the moment on does it.
create table upkeep (
    task    text primary key,
    next_at timestamptz not null default now()
) with (fillfactor = 50);
insert into upkeep (task) values ('poll'), ('purge');
