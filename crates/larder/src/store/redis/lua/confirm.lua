-- Takes a lock that was handed over, or that is free by now and this attempt's turn; else it still waits. A token that is
-- neither given the lock nor in line gets nothing, so that a request which arrives late takes nothing for nobody.
-- KEYS: 1 the lock, 2 its last fence, 3 its line, 4 when its waiters were heard of, 5 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it, 3 milliseconds to remember its fence, 4 and 5 milliseconds that a lock is
--   handed over for and that a waiter counts as alive, 6 a space and the holder's process
-- Reply: its fence if taken, 1 if it still waits, -1 if it does not stand in line
local time = redis.call('TIME')
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then
  if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    return -1
  end
  local now, live = now_of(time), tonumber(ARGV[5])
  -- A write that needs no memory comes first, so that a waiter outlives a server that is at its maxmemory.
  keep_line(KEYS[3], KEYS[4], live)
  redis.call('HSET', KEYS[4], ARGV[1], now)
  if not holder then
    holder = hand_on(KEYS[1], KEYS[3], KEYS[4], now, ARGV[4], live)
  end
  if holder ~= ARGV[1] then
    return 1
  end
end
if step_out(KEYS[3], KEYS[4], ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
elseif redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  -- Sent once more, or late: what was extended since is not shortened.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('UNLINK', KEYS[5])
return next_fence(KEYS[2], ARGV[3], time, ARGV[6])
