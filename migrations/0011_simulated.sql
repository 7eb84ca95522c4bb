-- Which kind of provider a batch was made for. A submission is sent only to that kind (queueing/sender.py): nobody may
-- be called for a demonstration, and no campaign may end in the simulator. Batches of the release before, which did
-- not know the difference, count as real, and so do those that its processes write while they still run.
alter table batch add column simulated boolean not null default false;

-- When a worker of the other kind last saw that the batch waits for its own kind: the hour after which an unsent batch
-- is refused counts only while it could be sent.
alter table batch add column waited_until timestamptz;
