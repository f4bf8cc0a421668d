-- The rest of release.lua, where somebody waits for the lock.
-- It deletes before it writes: so it works on a server that is at its maxmemory.
local claim, live = string.match(ARGV[2], '(%d+) (%d+)')
redis.call('UNLINK', KEYS[1])
hand_on(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), claim, tonumber(live))
return 1
