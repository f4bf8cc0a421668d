-- Confirms a lock that was handed to this attempt, or takes it if it is free and this attempt is next in the
-- queue. Otherwise the attempt still waits. A token that is neither queued nor was handed the lock gets
-- nothing, so that a late request cannot take a lock for an attempt that has ended.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the heartbeats of its waiters, 5 the attempt's wake-up
--   key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold the lock, 3 milliseconds to remember its fence, 4
--   milliseconds that a handover lasts, 5 milliseconds that a heartbeat lasts, 6 a space and the holder's
--   process
-- Reply: the fence if acquired, 1 if it still waits, -1 if it is not queued
local time = redis.call('TIME')
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then
  if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    return -1
  end
  local now, live = now_of(time), tonumber(ARGV[5])
  -- PEXPIRE comes first because it needs no memory: a waiter keeps its place on a server that is at its
  -- maxmemory.
  keep_queue(KEYS[3], KEYS[4], live)
  redis.call('HSET', KEYS[4], ARGV[1], now)
  if not holder then
    holder = hand_over(KEYS[1], KEYS[3], KEYS[4], now, ARGV[4], live)
  end
  if holder ~= ARGV[1] then
    return 1
  end
end
if not leave_queue(KEYS[3], KEYS[4], ARGV[1]) and redis.call('HDEL', KEYS[4], ARGV[1]) == 0 then
  -- A repeated or late request. It does not shorten the time of the lock, which the holder may have extended
  -- since, and does not change the fence, which the holder may know already.
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
  end
  local last = redis.call('GET', KEYS[2])
  if last then
    return tonumber(string.sub(last, 1, 16))
  end
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
redis.call('UNLINK', KEYS[5])
return next_fence(KEYS[2], ARGV[3], time, ARGV[6])
