-- The rest of release.lua, where somebody waits for the lock.
if not hand_on(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), ARGV[2], tonumber(ARGV[3])) then
  redis.call('UNLINK', KEYS[1])
end
return 1
