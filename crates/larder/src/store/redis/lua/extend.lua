-- Gives the holder of a lock more time, counted from now.
-- KEYS: 1 the lock
-- ARGV: 1 the holder's token, 2 milliseconds
-- Reply: 1 if the token still held it, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
