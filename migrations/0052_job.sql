-- Long work that was requested over the API: erasures and purges. The web process that was asked does it, and writes here
-- how far it is. A number that is erased is not stored.
create table job (
    job_id       bigint generated always as identity primary key,
    kind         text not null,
    requested_by text not null,
    requested_at timestamptz not null default now(),
    -- What was asked, and what was done so far.
    content      jsonb not null,
    seen_at      timestamptz not null default now(),
    ended_at     timestamptz,
    -- Why it ended early.
    error_code   text,
    error        text
);
