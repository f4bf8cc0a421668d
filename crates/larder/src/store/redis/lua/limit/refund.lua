-- Gives back permits that were not used, in the place where they were charged. refund_rest.lua is the second
-- half.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the request: how many permits (4), the time that was charged (7) and the record's creation time
--   (7), both as charge.lua replied, and the terms as in a request of charge.lua
-- Reply: how many permits were given back; 0 if the record is another one, has other quotas, or no longer
--   counts that time
-- Locals that limit.lua and refund_rest.lua use: ask, clock, record
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
