-- Frees what a token holds in a group, or ends its attempt, and grants what is then free. It deletes before
-- it writes, so that it works on a server that is at its maxmemory.
-- KEYS: 1 group, 2 state, 3 queue, 4 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to keep a tombstone for the attempt, 0 for none, 3 milliseconds that a
--   claim lasts, 4 milliseconds that a heartbeat lasts
-- Reply: 1 if it held its locks or had a claim on them, 0 if not
-- include group/queue.lua: group, state, queue, now_of, drop_held, leave_queue, expire, clean_up, grant
local ends = tonumber(redis.call('ZSCORE', group, ARGV[1]))
drop_held(ARGV[1])
if leave_queue(ARGV[1]) then
  redis.call('UNLINK', KEYS[4])
end
redis.call('HDEL', state, 's' .. ARGV[1])
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[4], '0', 'PX', ARGV[2])
end
local now = now_of(redis.call('TIME'))
if redis.call('EXISTS', queue) == 1 then
  expire(now)
  grant(now, ARGV[3], tonumber(ARGV[4]))
end
clean_up()
return ends and ends > now and 1 or 0
