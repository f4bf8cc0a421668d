-- Frees a lock, or hands it to the next in line, who is woken.
-- KEYS: 1 the lock, 2 its line, 3 when its waiters were heard of
-- ARGV: 1 the holder's token, 2 two numbers with a space between: milliseconds that a lock is handed over for and that a waiter
--   counts as alive
-- Reply: 1 if the token still held it, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return redis.call('UNLINK', KEYS[1])
end

