-- How many submissions the batches have that were accepted before 0073.
update batch b set submissions = s.submissions
from (select batch_id, count(*) as submissions from submission group by batch_id) s
where s.batch_id = b.batch_id and b.submissions = 0;
