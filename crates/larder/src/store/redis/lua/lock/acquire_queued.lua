-- The rest of acquire.lua, for a lock that is held or that has waiters. Its KEYS, ARGV and reply are those of
-- acquire.lua; it uses that script's locals `held` and `time`.
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
