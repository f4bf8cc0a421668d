-- Confirms a claim on locks of a group, or takes them if they are free and it is this attempt's turn.
-- Otherwise the attempt still waits. A token that neither has a claim nor waits gets nothing, so that a late
-- request cannot take locks for an attempt that has ended.
-- KEYS: 1 group, 2 state, 3 queue, 4 the group's last fence, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to hold, 3 milliseconds to remember the fence, 4 milliseconds that a
--   claim lasts, 5 milliseconds that a heartbeat lasts, 6 a space and the holder's process
-- Reply: the fence if acquired, 1 if it still waits, -1 if it does not wait
-- include group/queue.lua: group, state, queue, FENCE_KEPT, now_of, keep, keep_queue, leave_queue, expire, grant
-- include lock/fence.lua: next_fence
local live = tonumber(ARGV[5])
-- PEXPIRE comes first because it needs no memory: a waiter keeps its place on a server that is at its
-- maxmemory.
keep_queue(live)
local time = redis.call('TIME')
local now = now_of(time)
expire(now)
local ends = tonumber(redis.call('ZSCORE', group, ARGV[1]))
if not ends then
  if not redis.call('ZSCORE', queue, ARGV[1]) then
    return -1
  end
  redis.call('HSET', state, 'h' .. ARGV[1], now)
  grant(now, ARGV[4], live)
  ends = tonumber(redis.call('ZSCORE', group, ARGV[1]))
  if not ends then
    return 1
  end
end
-- A repeated or late request: the holder may have renewed the locks since, and their time is not shortened; it may
-- know the fence already, and that is not changed.
local fence
if leave_queue(ARGV[1]) then
  ends = 0
else
  fence = tonumber(string.match(redis.call('HGET', state, 'f' .. ARGV[1]) or '', '^%d+'))
end
ends = math.max(ends, now + tonumber(ARGV[2]))
redis.call('ZADD', group, ends, ARGV[1])
if not fence then
  fence = next_fence(KEYS[4], ARGV[3], time, '')
  redis.call('HSET', state, 'f' .. ARGV[1], string.format('%.0f', fence) .. ARGV[6])
end
redis.call('UNLINK', KEYS[5])
redis.call('PEXPIRE', KEYS[4], keep(ends - now + FENCE_KEPT))
return fence
