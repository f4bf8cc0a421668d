-- Takes a lock that nobody holds and nobody waits for; else stands in line, if told to. Sent once for each token.
--
-- It runs on the connection that is told of changes, and whatever a read command there touches is told of later. So all
-- that it asks on its usual ways, it asks by commands that write; and the one read is of the wake-up key.
-- KEYS: 1 the lock, 2 its last fence, 3 its line, 4 when its waiters were heard of, 5 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it, 3 '1' to stand in line, 4 and 5 milliseconds that a lock is handed
--   over for and that a waiter counts as alive, 6 milliseconds that a given-up attempt is remembered
-- Reply: {1, fence} if taken, {0, 0} if not, {2, 0} if now in line, {-1, 0} if the attempt had been given up before
if redis.call('PEXPIRE', KEYS[5], ARGV[6]) == 1 then
  return { -1, 0 }
end
local time = redis.call('TIME')
local live = tonumber(ARGV[5])
local waited_for = redis.call('PEXPIRE', KEYS[3], 2 * KEPT * live) == 1
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  if not (waited_for and hand_on(KEYS[1], KEYS[3], KEYS[4], now_of(time), ARGV[4], live)) then
    return { 1, next_fence(KEYS[2], ARGV[2], time) }
  end
end
if ARGV[3] ~= '1' then
  return { 0, 0 }
end
redis.call('ZADD', KEYS[3], redis.call('HINCRBY', KEYS[4], '#', 1), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], now_of(time))
keep_line(KEYS[3], KEYS[4], live)
redis.call('GET', KEYS[5])
return { 2, 0 }
