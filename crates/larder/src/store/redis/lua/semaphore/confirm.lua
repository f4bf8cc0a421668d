-- Confirms a claim, or takes permits if this attempt is next and they are free, or claimed for a later waiter
-- that has not confirmed yet. Otherwise the attempt still waits. A token that neither has a claim nor waits
-- gets nothing, so that a late request cannot take permits for an attempt that has ended.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen, 5 the attempt's wake-up key
-- ARGV: 1 the token, 2 milliseconds to hold, 3 milliseconds that a claim lasts, 4 milliseconds that a
--   heartbeat lasts, 5 '1' for a fence
-- Reply: {1, permits, fence} granted; {2, permits} it still waits; {-1, permits} it does not wait; {-2,
--   permits} it wants more permits than there are
-- include semaphore/queue.lua: held, number, queue, seen, MOST_GRANTS, milliseconds, weight_of, keep,
--   keep_queue, add_extra, drop_held, expire, count, fence_if, grant

-- Takes over an unconfirmed claim of the same weight from a later waiter: from the last of them in the queue,
-- which returns to its place. Without this, a process that needs longer to confirm than a claim lasts is
-- never served: whenever one of its waiters asks, another one has a claim that will expire unused.
local function take_over(token, now, claim)
  local last, other = tonumber(redis.call('ZSCORE', queue, token)), nil
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', held, '(' .. now, now + claim, 'LIMIT', 0, MOST_GRANTS)) do
    local ticket = string.match(redis.call('HGET', seen, holder) or '', '^t(%d+)$')
    if ticket and tonumber(ticket) > last and weight_of(holder) == weight_of(token) then
      last, other = tonumber(ticket), holder
    end
  end
  if other then
    drop_held(other)
    redis.call('ZADD', queue, last, other)
    redis.call('HSET', seen, other, -now)
    redis.call('ZREM', queue, token)
    redis.call('ZADD', held, now + claim, token)
    add_extra(weight_of(token))
  end
  return other
end

keep_queue(tonumber(ARGV[4]))
local now = milliseconds()
expire(now, tonumber(ARGV[4]))
local permits, used = count()
local state = redis.call('HGET', seen, ARGV[1])
if not state then
  local ends = tonumber(redis.call('ZSCORE', held, ARGV[1]))
  if ends then
    -- A repeated request: the holder may have renewed since, and its time is not shortened; it may know its fence,
    -- and that is not changed.
    redis.call('ZADD', held, math.max(ends, now + tonumber(ARGV[2])), ARGV[1])
    local fence = ARGV[5] == '1' and tonumber(redis.call('HGET', number, 'fence'))
    return { 1, permits or 0, fence or fence_if(ARGV[5]) }
  end
  return { permits and weight_of(ARGV[1]) > permits and -2 or -1, permits or 0 }
end
if not permits then
  -- The number of permits was lost. The attempt starts again and sends it.
  redis.call('ZREM', queue, ARGV[1])
  drop_held(ARGV[1])
  redis.call('HDEL', seen, ARGV[1])
  return { -1, 0 }
end
-- Without a claim: grant what is free, in the order of the queue, and see whether that gave this attempt one.
if string.sub(state, 1, 1) ~= 't' then
  -- The number may have been lost and stored again, lower, while all permits are used.
  if weight_of(ARGV[1]) > permits then
    redis.call('ZREM', queue, ARGV[1])
    redis.call('HDEL', seen, ARGV[1])
    return { -2, permits }
  end
  redis.call('HSET', seen, ARGV[1], now)
  grant(permits, used, now, ARGV[3], tonumber(ARGV[4]))
  state = redis.call('HGET', seen, ARGV[1])
  if string.sub(state, 1, 1) ~= 't' and not take_over(ARGV[1], now, ARGV[3]) then
    return { 2, permits }
  end
end
-- The claim becomes a hold.
redis.call('HDEL', seen, ARGV[1])
redis.call('ZADD', held, now + tonumber(ARGV[2]), ARGV[1])
redis.call('UNLINK', KEYS[5])
keep()
return { 1, permits, fence_if(ARGV[5]) }
