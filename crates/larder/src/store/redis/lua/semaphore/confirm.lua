-- Confirms a claim, or takes what is free if it is this attempt's turn; else it still waits. A token that neither holds
-- a claim nor waits gets nothing, so that a request that arrives late takes nothing.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to hold, 3 and 4 milliseconds that a claim holds and that a waiter counts as live,
--   5 '1' for a fence
-- Reply: {1, permits, fence} granted, {2, permits} it still waits, {-1, permits} it does not wait, {-2, permits} it
--   wants more
--   than there are
keep_queue(tonumber(ARGV[4]))
local now = milliseconds()
expire(now, tonumber(ARGV[4]))
local permits, used = count()
local state = redis.call('HGET', seen, ARGV[1])
if not state then
  local ends = tonumber(redis.call('ZSCORE', held, ARGV[1]))
  if ends then
    -- Sent once more: what was renewed since is not shortened.
    redis.call('ZADD', held, math.max(ends, now + tonumber(ARGV[2])), ARGV[1])
    return { 1, permits or 0, fence_if(ARGV[5]) }
  end
  return { permits and weight_of(ARGV[1]) > permits and -2 or -1, permits or 0 }
end
if not permits then
  -- The number was lost. The attempt starts again and brings one.
  redis.call('ZREM', queue, ARGV[1])
  drop_held(ARGV[1])
  redis.call('HDEL', seen, ARGV[1])
  return { -1, 0 }
end
if string.sub(state, 1, 1) ~= 't' then
  redis.call('HSET', seen, ARGV[1], now)
  grant(permits, used, now, ARGV[3], tonumber(ARGV[4]))
  state = redis.call('HGET', seen, ARGV[1])
  if not state then
    return { -2, permits }
  elseif string.sub(state, 1, 1) ~= 't' then
    return { 2, permits }
  end
end
redis.call('HDEL', seen, ARGV[1])
redis.call('ZADD', held, now + tonumber(ARGV[2]), ARGV[1])
redis.call('UNLINK', KEYS[5])
keep()
return { 1, permits, fence_if(ARGV[5]) }
