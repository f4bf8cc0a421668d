-- The rest of release.lua, where somebody waits for the lock.
local claim, live = string.match(ARGV[2], '(%d+) (%d+)')
if not hand_on(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), claim, tonumber(live)) then
  redis.call('UNLINK', KEYS[1])
end
return 1
