-- After a database was restored from a backup, and before a worker starts on it: `python -m receiver migrate
-- --after-restore` runs this, after the migrations.
-- What happened between the backup and its restore is not in it, and two things must not be taken from it.
begin;

-- Batches that were made since have tokens that are out, and callbacks that will come: their ids must not be given
-- again. A million is more than anybody made meanwhile.
select setval(pg_get_serial_sequence('batch', 'batch_id'),
    nextval(pg_get_serial_sequence('batch', 'batch_id')) + 1000000);
-- Callback ids that people have noted, or that scripts remember, must name what they named.
select setval(pg_get_serial_sequence('callback', 'callback_id'),
    nextval(pg_get_serial_sequence('callback', 'callback_id')) + 100000000);
-- So must ids of deliveries.
select setval('event_id', nextval('event_id') + 100000000);
-- Positions of the feed are given again, so the cursors of before have no meaning: they are answered 410.
update feed set epoch = (random() * 1000000000000)::bigint;
-- What was delivered since the backup is still owed in it, and is sent again, with the same `webhook-id`.

-- What was about to be sent may have been sent since: sending it again could dial everybody twice. So it is said to
-- have been taken by a worker that is gone; the next one finds that, and makes it `unknown`, for a person to resolve.
with gone as (
    insert into worker (host, pid, seen_at) values ('before the restore', 0, 'epoch') returning worker_id
)
update submission set state = 'sending', worker_id = (select worker_id from gone) where state in ('pending', 'sending');

commit;
