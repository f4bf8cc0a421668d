-- Reads the holder of one lock of a group. A lock on which an attempt has an unconfirmed claim has no holder.
-- KEYS: 1 group, 2 state, 3 queue
-- ARGV: 1 the name of the lock
-- Reply: fence and process, milliseconds that the lock is still held, how many attempts wait for it,
--   the holder's token; nothing if it has no holder
local token = redis.call('HGET', state, 'n' .. ARGV[1])
local held = token and redis.call('HGET', state, 'f' .. token)
local left = token and (tonumber(redis.call('ZSCORE', group, token)) or 0) - now_of(redis.call('TIME'))
if not held or left <= 0 then
  return {}
end
local waiting = 0
for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
  for name in names_of(waiter) do
    if name == ARGV[1] then
      waiting = waiting + 1
    end
  end
end
return { held, left, waiting, token }
