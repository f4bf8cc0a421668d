-- Frees a lock whose holder has this fence, or hands it to the next waiter.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the heartbeats of its waiters
-- ARGV: 1 the fence, 2 milliseconds that a handover lasts, 3 milliseconds that a heartbeat lasts
-- Reply: 1 if it was held with this fence, 0 if not
-- include lock/queue.lua: now_of, hand_over
local token = redis.call('GETRANGE', KEYS[1], 0, 15)
-- A lock that was handed over and not confirmed yet has no holder; its last fence is that of the holder before.
if token == '' or redis.call('ZSCORE', KEYS[3], token) then
  return 0
end
local last = redis.call('GET', KEYS[2])
if not last or tonumber(string.sub(last, 1, 16)) ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('UNLINK', KEYS[1])
hand_over(KEYS[1], KEYS[3], KEYS[4], now_of(redis.call('TIME')), ARGV[2], tonumber(ARGV[3]), '+')
return 1
