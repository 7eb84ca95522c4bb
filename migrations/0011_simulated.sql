-- Which kind of provider a batch was made for. A submission is sent only to that kind (queueing/sender.py): nobody may
-- be called for a demonstration, and no campaign may end in the simulator. Null: the process that took the batch had no
-- provider in its settings, or was of the release before. The first worker that could send it decides.
alter table batch add column simulated boolean;

-- When a worker of the other kind last saw that the batch waits for its own kind: the hour after which an unsent batch
-- is refused counts only while it could be sent.
alter table batch add column waited_until timestamptz;
