-- Frees a lock.
-- KEYS: 1 the lock
-- ARGV: 1 the holder's token
-- Reply: 1 if the token still held it, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
