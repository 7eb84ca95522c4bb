-- What an inline receiver needs: the batch that a token names, the callback as it came, and the call it belongs to.
create table batch (
    batch_id bigint generated always as identity primary key,
    token    text unique
);
create table call (
    call_id      bigint generated always as identity primary key,
    batch_id     bigint not null references batch,
    phone_number text not null,
    status       text,
    details      jsonb,
    received_at  timestamptz,
    unique (batch_id, phone_number)
);
create table callback (
    callback_id bigint generated always as identity primary key,
    batch_id    bigint,
    received_at timestamptz not null default now(),
    body        bytea not null
);
