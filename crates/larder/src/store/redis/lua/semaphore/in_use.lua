-- Counts the permits that are held or claimed.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen
-- Reply: their number
-- include semaphore/queue.lua: held, milliseconds, weight_of, count
local _, used = count()
for _, token in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', milliseconds())) do
  used = used - weight_of(token)
end
return math.max(used, 0)
