-- Holds other permits in place of those of one token, in one step, and grants what is free then. May be sent again.
-- An exchange that was given up takes nothing when it arrives.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the wake-up key of the token in its place
-- ARGV: 1 the token in its place, 2 the one that holds, which is not lighter, 3 milliseconds to hold,
--   4 and 5 milliseconds that a claim holds and that a waiter counts as live
-- Reply: 1 if it was held, 0 if not; a claim that is not confirmed is not held
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
