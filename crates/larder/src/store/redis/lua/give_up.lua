-- Ends an attempt, whatever has become of it: it is taken out of the line, and what it was given is handed on. Its wake-up
-- key says so for a while, for a request of it that may still be on the way; being written, it is not told of any more.
-- KEYS: 1 the lock, 2 its line, 3 when its waiters were heard of, 4 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 and 3 milliseconds that a lock is handed over for and that a waiter counts as alive,
--   4 milliseconds to remember that it was given up
-- Reply: 1 if it had the lock, 0 if not
-- A delete before the first write, so that it works on a server that is at its maxmemory.
step_out(KEYS[2], KEYS[3], ARGV[1])
redis.call('SET', KEYS[4], '0', 'PX', ARGV[4])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if not hand_on(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), ARGV[2], tonumber(ARGV[3])) then
  redis.call('UNLINK', KEYS[1])
end
return 1
