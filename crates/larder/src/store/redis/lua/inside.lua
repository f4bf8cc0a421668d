-- How many permits are held. Writes nothing.
-- KEYS: 1 the permits
-- Reply: their number
local time = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', time[1] * 1000000 + time[2]), '+inf')
