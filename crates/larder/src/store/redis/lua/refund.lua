-- Gives back permits that were not used, from where they were charged.
-- KEYS: 1 the record
-- ARGV: 1 the request: how many (4), the time that was charged (7), and the terms as charge.lua has them
-- Reply: how many were given back: none where the record counts by other quotas, or no longer counts that time
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
