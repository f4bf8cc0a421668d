-- Holds other permits in place of those of one token, in one step, and grants what is free then. May be sent again.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen
-- ARGV: 1 the token, 2 the one in its place, which is not heavier, 3 milliseconds to hold, 4 and 5 milliseconds that a
--   claim holds
--   and that a waiter counts as live
-- Reply: 1 if it was held, 0 if not; a claim that is not confirmed is not held
local now = milliseconds()
local ends = tonumber(redis.call('ZSCORE', held, ARGV[1]))
if not ends or ends <= now or redis.call('HGET', seen, ARGV[1]) then
  local other = tonumber(redis.call('ZSCORE', held, ARGV[2]))
  return other and other > now and 1 or 0
end
drop_held(ARGV[1])
redis.call('ZADD', held, math.max(ends, now + tonumber(ARGV[3])), ARGV[2])
add_extra(weight_of(ARGV[2]))
keep()
expire(now)
local permits, used = count()
if permits then
  grant(permits, used, now, ARGV[4], tonumber(ARGV[5]))
end
return 1
