-- Frees a lock, or hands it to the next waiter and wakes that. hand_over.lua is the second half.
-- KEYS: 1 the lock, 2 its queue, 3 the heartbeats of its waiters
-- ARGV: 1 the holder's token, 2 two numbers separated by a space: milliseconds that a handover lasts, and
--   milliseconds that a heartbeat lasts
-- Reply: 1 if the token still held the lock, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return redis.call('UNLINK', KEYS[1])
end

