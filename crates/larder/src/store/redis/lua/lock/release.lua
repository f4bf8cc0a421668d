-- Frees a lock, or hands it to the next waiter and wakes that. hand_over.lua is the second half.
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

