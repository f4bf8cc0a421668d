-- Gives a key other limits for a while, ends that, or tells of it; or forgets what was charged to it.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 for how many microseconds (7), for how many milliseconds a record lives (7), and the terms as they are before a
--   record (25 each). Without terms the override ends. Without an argument it is told of. '-' forgets what was charged
-- Reply: {microseconds left, its terms} before the change; of '-', whether anything was charged
local ask = ARGV[1] or ''
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
