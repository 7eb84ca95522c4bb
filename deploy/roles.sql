-- Two roles: the owner of the database runs `migrate`, and `receiver_app` runs everything else. It reads and writes rows,
-- and can neither create, change nor drop a table. It can empty only the partitions of old events. Run this once, in the
-- service's database, as a superuser or as the database's owner (PostgreSQL 15 or later), before the first `migrate` or
-- at any later time:
--   createuser --pwprompt receiver_app
--   psql --dbname=receiver --set=ON_ERROR_STOP=1 --file=deploy/roles.sql
begin;

grant usage on schema public to receiver_app;
-- Tables that are there already.
grant select, insert, update, delete on all tables in schema public to receiver_app;

do $$
declare
    owner name := (select pg_get_userbyid(datdba) from pg_database where datname = current_database());
begin
    -- Later migrations grant this by themselves.
    if to_regclass('event_id') is not null then
        grant usage on sequence event_id to receiver_app;
        for slot in 0..16 loop
            execute format('grant truncate on owed_event_%1$s, delivery_%1$s, feed_entry_%1$s to receiver_app', slot);
        end loop;
    end if;
    execute format('grant connect on database %I to receiver_app', current_database());
    execute format('revoke temporary on database %I from public', current_database());
    if not has_schema_privilege(owner, 'public', 'create') then
        execute format('grant create on schema public to %I', owner);
    end if;
    -- Tables of later migrations. Ids are identity columns: to insert a row is enough to get one.
    execute format('alter default privileges for role %I in schema public'
        ' grant select, insert, update, delete on tables to receiver_app', owner);
end
$$;

-- Until PostgreSQL 14 everybody may create tables there.
revoke create on schema public from public;

commit;
