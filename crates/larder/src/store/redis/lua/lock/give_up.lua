-- Ends an attempt in whatever state it is: removes it from the queue, and hands on the lock if the attempt
-- has it. Writes a tombstone to the attempt's wake-up key, so that a request of the attempt that is still on
-- its way is refused; that write also ends the server's tracking of the key.
-- KEYS: 1 the lock, 2 its queue, 3 the heartbeats of its waiters, 4 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds that a handover lasts, 3 milliseconds that a heartbeat lasts, 4
--   milliseconds to keep the tombstone
-- Reply: 1 if the attempt had the lock, 0 if not
-- It deletes before it writes, so that it works on a server that is at its maxmemory.
-- include lock/queue.lua: now_of, token_of, hand_over
local queued = redis.call('ZREM', KEYS[2], ARGV[1]) == 1
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('SET', KEYS[4], '0', 'PX', ARGV[4])
local held = redis.call('GET', KEYS[1])
if token_of(held) == ARGV[1] then
  local now = now_of(redis.call('TIME'))
  if not hand_over(KEYS[1], KEYS[2], KEYS[3], now, ARGV[2], tonumber(ARGV[3]), '+') then
    redis.call('UNLINK', KEYS[1])
  end
  return 1
end
if queued then
  -- With fewer than two waiters the mark no longer says that the queue is kept: the last waiter may be about to
  -- confirm, and then the queue is gone. Without a waiter there is no mark.
  local left = redis.call('ZCARD', KEYS[2])
  if left == 0 then
    redis.call('UNLINK', KEYS[3])
  end
  if held and left < 2 then
    local value = token_of(held) .. (left == 1 and '+' or '')
    if value ~= held then
      redis.call('SET', KEYS[1], value, 'KEEPTTL')
    end
  end
end
return 0
