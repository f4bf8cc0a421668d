-- Reads the holder of a lock. A lock that was handed over and not confirmed yet has no holder.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue
-- Reply: the last fence and process, milliseconds that the lock is still held, how many attempts wait,
--   the holder's token; nothing if it has no holder
local token = redis.call('GETRANGE', KEYS[1], 0, 15)
if token == '' or redis.call('ZSCORE', KEYS[3], token) then
  return {}
end
return { redis.call('GET', KEYS[2]) or '0', redis.call('PTTL', KEYS[1]), redis.call('ZCARD', KEYS[3]), token }
