-- The rest of acquire.lua, where somebody holds the lock or waits for it.
local stands, claim, live = string.match(ARGV[4], '(%d) (%d+) (%d+)')
live = tonumber(live)
if taken and not hand_on(KEYS[1], KEYS[3], KEYS[4], now_of(time), claim, live) then
  return next_fence(KEYS[2], ARGV[3], time, ARGV[5])
end
if stands ~= '1' then
  return 0
end
redis.call('ZADD', KEYS[3], redis.call('HINCRBY', KEYS[4], '#', 1), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], now_of(time))
keep_line(KEYS[3], KEYS[4], live)
redis.call('GET', KEYS[5])
return 1
