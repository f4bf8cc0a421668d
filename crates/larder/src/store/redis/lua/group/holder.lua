-- Reads the holder of one lock of a group. A lock on which an attempt has an unconfirmed claim has no holder.
-- KEYS: 1 group, 2 state, 3 queue
-- ARGV: 1 the name of the lock, 2 milliseconds that a heartbeat lasts
-- Reply: fence and process, milliseconds that the lock is still held, how many attempts wait for it,
--   the holder's token; nothing if it has no holder
-- include group/queue.lua: group, state, queue, KEPT, now_of, names_of
local token = redis.call('HGET', state, 'n' .. ARGV[1])
local held = token and redis.call('HGET', state, 'f' .. token)
local now = now_of(redis.call('TIME'))
local left = token and (tonumber(redis.call('ZSCORE', group, token)) or 0) - now
if not held or left <= 0 then
  return {}
end
local waiting = 0
for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
  local heartbeat = math.abs(tonumber(redis.call('HGET', state, 'h' .. waiter)) or 0)
  -- A waiter without a heartbeat for longer has lost its place, and is removed by the next step that grants.
  if now - heartbeat <= KEPT * tonumber(ARGV[2]) then
    for name in names_of(waiter) do
      if name == ARGV[1] then
        waiting = waiting + 1
      end
    end
  end
end
return { held, left, waiting, token }
