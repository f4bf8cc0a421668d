-- Takes one of so many permits, unless all are held. A permit is a member of a sorted set, the token of its holder,
-- whose score is the server's time in microseconds at which it ends.
-- KEYS: 1 the permits
-- ARGV: 1 how many there are, 2 the token, 3 milliseconds to hold one
-- Reply: {1, how many are left} or {0, microseconds until the first held one ends}
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local left = tonumber(ARGV[1]) - redis.call('ZCARD', KEYS[1])
if left <= 0 then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 0, math.max(tonumber(first[2]) - now, 0) }
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3] * 1000), ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return { 1, left - 1 }
