-- Frees a lock, or hands it to the next waiter and wakes that.
-- KEYS: 1 the lock, 2 its queue
-- ARGV: 1 the holder's token, 2 two numbers separated by a space: milliseconds that a handover lasts, and
--   milliseconds that a heartbeat lasts
-- Reply: 1 if the token still held the lock, 0 if not
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
if not held or string.sub(held, 1, 16) ~= ARGV[1] then
  return 0
end

-- Attempts may wait. A lock without waiters does not pay for making these functions.
-- include lock/queue.lua: now_of, hand_over
local claim, live = string.match(ARGV[2], '(%d+) (%d+)')
local now = now_of(redis.call('TIME'))
if not hand_over(KEYS[1], KEYS[2], KEYS[1] .. ':seen', now, claim, tonumber(live), string.sub(held, 17)) then
  redis.call('UNLINK', KEYS[1])
end
return 1
