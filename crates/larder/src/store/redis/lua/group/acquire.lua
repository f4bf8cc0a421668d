-- Acquires locks of a group, all or none: they must be free, and no live waiter may want one of them.
-- Otherwise enqueues the attempt, if it asks for that. A client sends this script once for each token.
-- KEYS: 1 group, 2 state, 3 queue, 4 the group's last fence, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to hold, 3 milliseconds to remember the fence, 4 '1' to enqueue, 5
--   milliseconds that a claim lasts, 6 milliseconds that a heartbeat lasts, 7 a space and the holder's
--   process, 8 the names, separated by line feeds
-- Reply: the fence if acquired, 0 if not, 1 if enqueued, -1 if the attempt was cancelled before this request
--   arrived
-- include group/queue.lua: group, state, queue, FENCE_KEPT, now_of, keep, keep_queue, taken, expire, grant
-- include lock/fence.lua: next_fence
if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then
  return -1
end
local time = redis.call('TIME')
local now, live = now_of(time), tonumber(ARGV[6])
expire(now)
local wanted, free = {}, true
-- Waiters come first: grant what is free to them, and learn which names live waiters want.
if redis.call('EXISTS', queue) == 1 then
  keep_queue(live)
  wanted, free = grant(now, ARGV[5], live)
end
for name in string.gmatch(ARGV[8], '[^\n]+') do
  free = free and not wanted[name] and not taken(name)
end
if free then
  local fence = next_fence(KEYS[4], ARGV[3], time, '')
  redis.call('ZADD', group, now + tonumber(ARGV[2]), ARGV[1])
  redis.call('HSET', state, 's' .. ARGV[1], ARGV[8], 'f' .. ARGV[1], string.format('%.0f', fence) .. ARGV[7])
  for name in string.gmatch(ARGV[8], '[^\n]+') do
    redis.call('HSET', state, 'n' .. name, ARGV[1])
  end
  redis.call('PEXPIRE', KEYS[4], keep(tonumber(ARGV[2]) + FENCE_KEPT))
  return fence
end
if ARGV[4] ~= '1' then
  return 0
end
redis.call('ZADD', queue, redis.call('HINCRBY', state, '#', 1), ARGV[1])
redis.call('HSET', state, 's' .. ARGV[1], ARGV[8], 'h' .. ARGV[1], now)
keep_queue(live)
return 1
