-- The rest of release.lua, for a lock that may have waiters. KEYS, ARGV and reply are those of release.lua; it
-- uses that script's local `held`.
local claim, live = string.match(ARGV[2], '(%d+) (%d+)')
local now = now_of(redis.call('TIME'))
if not hand_over(KEYS[1], KEYS[2], KEYS[1] .. ':seen', now, claim, tonumber(live), string.sub(held, 17)) then
  redis.call('UNLINK', KEYS[1])
end
return 1
