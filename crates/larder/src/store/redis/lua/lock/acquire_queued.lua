-- The rest of acquire.lua, for a lock that is held or that has waiters. Its KEYS, ARGV and reply are those of
-- acquire.lua; it uses that script's locals `taken` and `time`.
local enqueues, claim, live = string.match(ARGV[4], '(%d) (%d+) (%d+)')
live = tonumber(live)
-- The lock is free and has waiters: the first live one gets it. If no waiter is live, this attempt keeps it.
if taken and not hand_over(KEYS[1], KEYS[3], KEYS[4], now_of(time), claim, live) then
  return next_fence(KEYS[2], ARGV[3], time, ARGV[5])
end
if enqueues ~= '1' then
  return 0
end
redis.call('ZADD', KEYS[3], redis.call('HINCRBY', KEYS[4], '#', 1), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], now_of(time))
keep_queue(KEYS[3], KEYS[4], live)
-- On the tracking connection this read registers the key, so that the server reports the wake-up.
redis.call('GET', KEYS[5])
return 1
