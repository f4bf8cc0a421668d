-- The rest of release.lua, for a lock that has waiters. KEYS, ARGV and reply are those of release.lua.
-- It deletes before it writes, so that it works on a server that is at its maxmemory.
local claim, live = string.match(ARGV[2], '(%d+) (%d+)')
redis.call('UNLINK', KEYS[1])
hand_over(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), claim, tonumber(live))
return 1
