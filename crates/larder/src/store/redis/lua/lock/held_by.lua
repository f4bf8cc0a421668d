-- Returns the last fence and process, milliseconds that the lock is still held, how many attempts wait, the
-- holder's token; nothing if it has no holder. A lock that was handed over and not confirmed yet has no holder,
-- and its last fence is that of the holder before.
local function held_by(lock, fence, queue)
  local token = redis.call('GETRANGE', lock, 0, 15)
  if token == '' or redis.call('ZSCORE', queue, token) then
    return {}
  end
  return { redis.call('GET', fence) or '0', redis.call('PTTL', lock), redis.call('ZCARD', queue), token }
end
