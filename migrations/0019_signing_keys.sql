-- Which keys signed the tokens that the provider has, so that a process without one of them does not start, and a deploy
-- without it fails (receiver/results/signing_keys.py). Fingerprints, from which no key can be found. A key that nothing
-- needs any more may stay here: there are a few in years.
create table signing_key (
    fingerprint   text primary key,
    -- When a worker first started with it as the key that signs.
    first_used_at timestamptz not null default now()
);

-- The key that signed the token of the submission's last try. Null: not sent yet, or sent by 1.0.0.
alter table submission add column signing_key text;
