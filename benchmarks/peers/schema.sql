-- What an inline receiver needs: the callback as it came, and the call it belongs to.
create table call (
    call_id      bigint generated always as identity primary key,
    batch_id     bigint not null,
    phone_number text not null,
    status       text,
    attempts     integer,
    duration     integer,
    details      jsonb,
    unique (batch_id, phone_number)
) with (fillfactor = 70);
create table callback (
    callback_id bigint generated always as identity primary key,
    call_id     bigint,
    received_at timestamptz not null default now(),
    body        text not null
);
