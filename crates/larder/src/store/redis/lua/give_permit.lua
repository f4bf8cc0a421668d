-- Gives a permit back, and rings the bell for who waits at the door. Where an attempt was given up, that is remembered.
-- KEYS: 1 the permits taken, 2 the door, 3 the bell, 4 a key that says that this attempt was given up
-- ARGV: 1 the token, 2 milliseconds to remember it, 0 for not
-- Reply: 1 if it was still held, 0 if not
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[4], '0', 'PX', ARGV[2])
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if not ends then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SET', KEYS[3], '1', 'PX', 1000)
end
return ends > now and 1 or 0
