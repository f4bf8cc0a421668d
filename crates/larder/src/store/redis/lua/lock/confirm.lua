-- Confirms a lock that was handed to this attempt, or takes it if it is free and this attempt is next in the
-- queue. Otherwise the attempt still waits. A token that is neither queued nor was handed the lock gets
-- nothing, so that a late request cannot take a lock for an attempt that has ended.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold the lock, 3 milliseconds to remember its fence, 4
--   milliseconds that a handover lasts, 5 milliseconds that a heartbeat lasts, 6 a space and the holder's
--   process
-- Reply: the fence if acquired, 1 if it still waits, -1 if it is not queued
-- include lock/queue.lua: now_of, token_of, hand_over, beat
-- include lock/fence.lua: next_fence
local time = redis.call('TIME')
local held = redis.call('GET', KEYS[1])
if token_of(held) ~= ARGV[1] then
  if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
    return -1
  end
  local seen, now, live = KEYS[1] .. ':seen', now_of(time), tonumber(ARGV[5])
  beat(KEYS[3], seen, live, { now, ARGV[1] })
  -- If it was handed the lock before, it was passed over. From now on it may be handed the lock again.
  redis.call('UNLINK', KEYS[4])
  if not held then
    held = hand_over(KEYS[1], KEYS[3], seen, now, ARGV[4], live, '+')
  end
  if token_of(held) ~= ARGV[1] then
    return 1
  end
end
-- The lock's value stays, with its mark: others may wait. What is left of this attempt expires by itself: its
-- wake-up key, and the time of its last heartbeat.
if redis.call('ZREM', KEYS[3], ARGV[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  -- A repeated or late request. It does not shorten the time of the lock, which the holder may have extended
  -- since, and does not change the fence, which the holder may know already.
  local left = redis.call('PTTL', KEYS[1])
  if left < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
  end
  -- If the queue was lost before this attempt confirmed, the record is that of the holder before: of another process,
  -- or the lock is held for no longer than a handover lasts. A repeated request that comes so late has a new fence.
  local last = redis.call('GET', KEYS[2])
  if left > tonumber(ARGV[4]) and last and string.sub(last, 17) == ARGV[6] then
    return tonumber(string.sub(last, 1, 16))
  end
end
return next_fence(KEYS[2], ARGV[3], time, ARGV[6])
