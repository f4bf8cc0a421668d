-- Gives permits back, or ends an attempt, and grants what is then free. It deletes before it writes, so that
-- it works on a server that is at its maxmemory.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to keep a tombstone for the attempt, 0 for none, 3 milliseconds that a
--   claim lasts, 4 milliseconds that a heartbeat lasts
-- Reply: 1 if it still held its permits or had a claim on them, 0 if not
-- include semaphore/queue.lua: held, queue, seen, milliseconds, drop_held, expire, count, grant
local ends = tonumber(redis.call('ZSCORE', held, ARGV[1]))
drop_held(ARGV[1])
if redis.call('HDEL', seen, ARGV[1]) == 1 then
  redis.call('ZREM', queue, ARGV[1])
end
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[5], '0', 'PX', ARGV[2])
end
local now = milliseconds()
if redis.call('EXISTS', queue) == 1 then
  expire(now, tonumber(ARGV[4]))
  local permits, used = count()
  if permits then
    grant(permits, used, now, ARGV[3], tonumber(ARGV[4]))
  end
end
return ends and ends > now and 1 or 0
