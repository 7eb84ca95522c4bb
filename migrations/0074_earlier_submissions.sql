-- How many submissions the batches have that were accepted before 0073.
-- They are locked in the order in which the service locks them (receiver/database/locks.py).
select from batch where submissions = 0 order by batch_id for no key update;
update batch b set submissions = s.submissions
from (select batch_id, count(*) as submissions from submission group by batch_id) s
where s.batch_id = b.batch_id and b.submissions = 0;
