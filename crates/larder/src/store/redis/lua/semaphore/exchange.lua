-- Replaces what one token holds by what another token holds, in one step, and grants what is then free. It
-- may be sent again. An exchange that was cancelled before it arrives changes nothing.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the wake-up key of the new token
-- ARGV: 1 the new token, 2 the token that holds, which is not lighter, 3 milliseconds to hold, 4 milliseconds
--   that a claim lasts, 5 milliseconds that a heartbeat lasts
-- Reply: 1 if the old token (or, in a repeated request, the new one) held its permits, 0 if not; an
--   unconfirmed claim does not hold
-- include semaphore/queue.lua: held, seen, milliseconds, weight_of, keep, add_extra, drop_held, expire, count, grant
if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then
  return 0
end
local now = milliseconds()
local ends = tonumber(redis.call('ZSCORE', held, ARGV[2]))
if not ends or ends <= now or redis.call('HGET', seen, ARGV[2]) then
  local other = tonumber(redis.call('ZSCORE', held, ARGV[1]))
  return other and other > now and 1 or 0
end
drop_held(ARGV[2])
redis.call('ZADD', held, math.max(ends, now + tonumber(ARGV[3])), ARGV[1])
add_extra(weight_of(ARGV[1]))
keep()
expire(now, tonumber(ARGV[5]))
local permits, used = count()
if permits then
  grant(permits, used, now, ARGV[4], tonumber(ARGV[5]))
end
return 1
