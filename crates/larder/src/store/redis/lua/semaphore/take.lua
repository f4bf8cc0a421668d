-- Takes permits that are free and that no earlier waiter wants. Otherwise enqueues the attempt, if it asks
-- for that. A client sends this script once for each token.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to hold, 3 the number of permits if none is stored, 4 milliseconds that a
--   claim lasts, 5 milliseconds that a heartbeat lasts, 6 the most attempts that may wait, -1 to not wait, 7
--   '1' for a fence
-- Reply: {1, permits, fence} granted; {0, permits} not granted; {2, permits} it waits; {-1, permits} the
--   attempt was cancelled before this request arrived; {-2, permits} it wants more permits than there are;
--   {-3, permits} the queue is full
-- include semaphore/queue.lua: held, number, queue, seen, DAYS_30, milliseconds, weight_of,
--   keep_queue, add_extra, expire, count, create, fence_if, grant
if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then
  return { -1, 0 }
end
local now, live = milliseconds(), tonumber(ARGV[5])
expire(now, live)
local permits, used = count()
if not permits then
  create(ARGV[3])
  permits, used = count()
end
redis.call('PEXPIRE', number, DAYS_30)
local weight = weight_of(ARGV[1])
if weight > permits then
  return { -2, permits }
end
-- Waiters come first: `free` tells whether no live waiter is left.
local free = true
if redis.call('EXISTS', queue) == 1 then
  used, free = grant(permits, used, now, ARGV[4], live)
end
if free and used + weight <= permits then
  redis.call('ZADD', held, now + tonumber(ARGV[2]), ARGV[1])
  add_extra(weight)
  redis.call('PEXPIRE', held, DAYS_30)
  return { 1, permits, fence_if(ARGV[7]) }
end
local most = tonumber(ARGV[6])
if most < 0 then
  return { 0, permits }
elseif redis.call('ZCARD', queue) >= most then
  return { -3, permits }
end
redis.call('ZADD', queue, redis.call('HINCRBY', number, 'ticket', 1), ARGV[1])
redis.call('HSET', seen, ARGV[1], now)
keep_queue(live)
return { 2, permits }
