-- Reads the last run of a job.
-- KEYS: 1 the status, 2 the lock
-- Reply: when it began, when it ended (0 if it has not), its process, its outcome, 1 if its lock is held;
--   nothing if the job never ran
local status = redis.call('HMGET', KEYS[1], 'started', 'ended', 'by', 'outcome')
if not status[1] then
  return {}
end
return { tonumber(status[1]), tonumber(status[2]) or 0, status[3], status[4], redis.call('EXISTS', KEYS[2]) }
