-- Due times of the submissions that were sent before there were any: their batch's. What has no call left to become
-- overdue counts as marked; the others are marked by the first worker that knows how.
update submission s set due_at = b.due_at, released_at = s.sent_at,
    overdue_at = case when b.due_at < now() and c.rows = c.skipped + c.refused + c.completed + c.failed + c.canceled
        + c.rejected + c.other then b.due_at end
from batch b join batch_count c using (batch_id)
where s.batch_id = b.batch_id and s.due_at is null and s.state in ('accepted', 'sending', 'unknown');

update batch b set last_release_at = (select max(s.sent_at) from submission s
    where s.batch_id = b.batch_id and s.state in ('accepted', 'sending', 'unknown'))
where b.state = 'queueing';
