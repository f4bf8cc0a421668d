-- Takes a lock that was handed over, or that is free by now and this attempt's turn; else it still waits. A token that is
-- neither given the lock nor in line gets nothing, so that a request which arrives late takes nothing for nobody.
-- KEYS: 1 the lock, 2 its last fence, 3 its line, 4 when its waiters were heard of, 5 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it, 3 and 4 milliseconds that a lock is handed over for and that a
--   waiter counts as alive
-- Reply: {1, fence} if taken, {2, 0} if it still waits, {-1, 0} if it does not stand in line
local time = redis.call('TIME')
local holder = redis.call('GET', KEYS[1])
local confirmed = holder == ARGV[1]
if not confirmed then
  if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    return { -1, 0 }
  end
  local now = now_of(time)
  redis.call('HSET', KEYS[4], ARGV[1], now)
  keep_line(KEYS[3], KEYS[4], tonumber(ARGV[4]))
  if not holder then
    holder = hand_on(KEYS[1], KEYS[3], KEYS[4], now, ARGV[3], tonumber(ARGV[4]))
  end
  if holder ~= ARGV[1] then
    return { 2, 0 }
  end
end
if confirmed and not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  -- Sent once more, or late: what was extended since is not shortened.
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
step_out(KEYS[3], KEYS[4], ARGV[1])
redis.call('UNLINK', KEYS[5])
return { 1, next_fence(KEYS[2], ARGV[2], time) }
