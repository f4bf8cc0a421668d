-- Takes a permit of a semaphore. Who does not hold the door takes none while others wait at it.
-- KEYS: 1 the permits taken, by their end in milliseconds of the server's time, 2 the door, a lock, 3 its line, 4 a key that
--   says that this attempt was given up
-- ARGV: 1 the attempt's token, 2 how many permits there are, 3 milliseconds to hold one, 4 the door's token if it is held,
--   else '', 5 milliseconds that a given-up attempt is remembered
-- Reply: {1, 0} if taken, {0, milliseconds until the first permit ends} if not, {-1, 0} if it was given up before
if redis.call('PEXPIRE', KEYS[4], ARGV[5]) == 1 then
  return { -1, 0 }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local door = redis.call('GET', KEYS[2])
if door ~= ARGV[4] and (door or ARGV[4] ~= '' or redis.call('EXISTS', KEYS[3]) == 1) then
  return { 0, 0 }
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return { 0, tonumber(first[2]) - now }
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return { 1, 0 }
