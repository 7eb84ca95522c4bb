-- Sessions of the dashboards that were ended before their time. A session is a signed cookie that names its id and its
-- API key; a copy of the cookie must end with it. Every web machine asks here, in the statement that looks up the key.
--
-- A row is of no use once the session would have expired: the next sign-out deletes it.
create table ended_session (
    session_id text primary key,
    expires_at timestamptz not null
);
