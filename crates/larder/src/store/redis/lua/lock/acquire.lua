-- Acquires a lock that has no holder and no waiter. Otherwise enqueues the attempt, if it asks for that. A
-- client sends this script once for each token.
-- This script runs on the tracking connection, where the server would later report a change of every key that
-- a read command reads here. So it tests keys by commands that write, and reads only the wake-up key, whose
-- change it wants to be reported. Calls, arguments and conversions of numbers to text are what costs time
-- here: a free lock takes five calls and five arguments, and an attempt that joins a queue takes four calls.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the attempt's wake-up key. Redis before 7.2 reports the
--   next change of each of them.
-- ARGV: 1 the attempt's token, 2 milliseconds to hold the lock, 3 milliseconds to remember its fence, 4 three
--   numbers separated by spaces: 1 to enqueue or 0, milliseconds that a handover lasts, milliseconds that a
--   heartbeat lasts; 5 a space and the holder's process
-- Reply: the fence if acquired, 0 if not, 1 if enqueued, -1 if the attempt was cancelled before this request
--   arrived
local held -- the lock's value, false if this attempt has just set it
if redis.REDIS_VERSION_NUM then
  held = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2], 'GET')
elseif not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  -- Redis before 7 has no SET with both NX and GET. Attempts are not sent on its tracking connection.
  held = redis.call('GET', KEYS[1])
end
local time = redis.call('TIME')
if not held and redis.call('PEXPIRE', KEYS[4], '30000') == 1 then
  redis.call('UNLINK', KEYS[1])
  return -1
end
if not held and redis.call('PEXPIRE', KEYS[3], '10560') == 0 then
  -- The same as next_fence in fence.lua, without the cost of making a function.
  local fence = time[1] * 1000000 + time[2]
  local text = time[1] .. string.sub('00000' .. time[2], -6) .. ARGV[5]
  local last
  if redis.REDIS_VERSION_NUM then
    last = redis.call('SET', KEYS[2], text, 'PX', ARGV[3], 'GET')
  else
    last = redis.call('GETSET', KEYS[2], text)
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
  end
  last = last and tonumber(string.sub(last, 1, 16))
  if last and last >= fence then
    fence = last + 1
    redis.call('SET', KEYS[2], string.format('%.0f', fence) .. ARGV[5], 'PX', ARGV[3])
  end
  return fence
end

-- The lock is held or has waiters. A free lock without waiters does not pay for making these functions.
-- include lock/queue.lua: now_of, KEPT, hand_over
-- include lock/fence.lua: next_fence
local enqueues, claim, live = string.match(ARGV[4], '(%d) (%d+) (%d+)')
live = tonumber(live)
local now = now_of(time)
if not held then
  -- The lock is free and has waiters: the first live one gets it. If no waiter is live, this attempt keeps the
  -- lock, and its release must look at the queue: a waiter that was only slow may be in it.
  held = hand_over(KEYS[1], KEYS[3], KEYS[1] .. ':seen', now, claim, live, '+')
  if not held then
    redis.call('SETRANGE', KEYS[1], 16, '+')
    return next_fence(KEYS[2], ARGV[3], time, ARGV[5])
  end
end
-- On the tracking connection this read registers the key, so that the server reports the wake-up. Before the
-- attempt is queued, the key exists only if the attempt was cancelled.
if redis.call('GET', KEYS[4]) then
  return -1
end
if enqueues ~= '1' then
  return 0
end
redis.call('ZADD', KEYS[3], time[1] * 1000000 + time[2], ARGV[1])
-- The mark of the lock has the time until which the queue is certainly kept. While that is far away, neither
-- needs to be written again.
if (tonumber(string.sub(held, 18)) or 0) < now + KEPT * live then
  redis.call('SETRANGE', KEYS[1], 16, string.format('+%.0f', now + 2 * KEPT * live))
  redis.call('PEXPIRE', KEYS[3], 2 * KEPT * live)
end
return 1
