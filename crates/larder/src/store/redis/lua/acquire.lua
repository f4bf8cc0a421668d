-- Takes a lock that nobody holds. Its fence is higher than any before: than the last one given while that is
-- remembered, and than the server's time in microseconds at every earlier grant, so that lost data does not lower it.
-- KEYS: 1 the lock, 2 its last fence
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it
-- Reply: {1, fence} if taken, {0, milliseconds left} if somebody holds it
local left = redis.call('PTTL', KEYS[1])
if left ~= -2 then
  return { 0, math.max(left, 0) }
end
local now = redis.call('TIME')
local fence = math.max(now[1] * 1000000 + now[2], (tonumber(redis.call('GET', KEYS[2])) or 0) + 1)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
-- The server's time is the floor; the last fence only matters while a clock could step back behind it.
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[2] + 60000)
return { 1, fence }
