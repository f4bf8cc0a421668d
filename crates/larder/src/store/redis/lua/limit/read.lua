-- Reads the request, the server's time in microseconds, and the record (nil if there is none).
local ask = ARGV[1] or ''
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
