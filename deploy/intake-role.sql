-- A role for the intake alone, which strangers reach: it adds callbacks, and can neither read calls, contacts or API keys, nor
-- change or delete anything that counts. Run this in the service's database, as its owner, after each `migrate`:
--   createuser --pwprompt receiver_intake
--   psql --dbname=receiver --set=ON_ERROR_STOP=1 --file=deploy/intake-role.sql
-- and give the intake its address as DATABASE_URL. `doctor --deploy` with the intake's settings says whether a right is missing.
begin;

grant usage on schema public to receiver_intake;

-- The journal. Its statement returns these columns of the rows that it inserts, so the role can read them in earlier rows, too.
grant insert, select (callback_id, batch_id, received_at, body) on callback to receiver_intake;
grant insert on waiting to receiver_intake;
grant select, insert, update on journal_writer, callback_budget to receiver_intake;

-- How many callbacks a submission may have, and which keys expected results need.
grant select (batch_id, submission_no, calls, state, signing_key) on submission to receiver_intake;
grant select (batch_id, due_at) on batch to receiver_intake;
grant select (worker_id) on worker to receiver_intake;
grant select on batch_count, signing_key, schema_migration to receiver_intake;

commit;
