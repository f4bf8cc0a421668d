-- Gives back permits that were not used, from where they were charged.
-- KEYS: 1 the record
-- ARGV: 1 the request: how many (4), the time that was charged (7) and that of the record's first charge (7), as
--   charge.lua answered, and the terms as it has them
-- Reply: how many were given back: none where the record is another, or counts by other quotas, or no longer counts
--   that time
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
