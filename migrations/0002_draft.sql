-- A CSV between its upload in the dashboards and the button that queues it: any web machine may be asked
-- for the second step, so the file waits here and not on a disk. What nobody queued is forgotten after a day.

create table draft (
    draft_id   uuid primary key default gen_random_uuid(),
    -- Whose it is: nobody else sees it.
    key_id     bigint not null,
    file_name  text not null,
    csv_bytes  bigint not null,
    -- The form's fields as they were written; they are checked each time they are used.
    form       jsonb not null,
    -- What queueing would come to, and for which choices: kept, because finding it out reads the whole file.
    preview    jsonb,
    -- The batch it became. Its file is gone then, and whoever sends the form again is shown that batch.
    batch_id   bigint references batch on delete cascade,
    created_at timestamptz not null default now()
);
create index draft_oldest on draft (created_at);
create index draft_batch on draft (batch_id) where batch_id is not null;

-- Its file in pieces, so that neither a web process nor a message to Postgres ever holds all of it.
create table draft_chunk (
    draft_id uuid not null references draft on delete cascade,
    chunk_no integer not null,
    content  bytea not null,
    primary key (draft_id, chunk_no)
);
-- Not compressed: it is written once, read once or twice, and gone tomorrow.
alter table draft_chunk alter column content set storage external;
