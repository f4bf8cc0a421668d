-- Reads the time and the record. Given to limit.lua, and to the operation that follows it: ask (the request), clock
-- (the server's time in microseconds), record (nil if there is none).
local ask = ARGV[1] or ''
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
