-- Gives the holder of a lock at least so much time, counted from now. It never shortens the lock: the holder could not
-- tell whether a shortening that it got no answer to took effect.
-- KEYS: 1 the lock
-- ARGV: 1 the holder's token, 2 milliseconds
-- Reply: 1 if the token still held it, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
