-- Ends an attempt in whatever state it is: removes it from the queue, and hands on the lock if the attempt
-- has it. Writes a tombstone to the attempt's wake-up key, so that a request of the attempt that is still on
-- its way is refused; that write also ends the server's tracking of the key.
-- KEYS: 1 the lock, 2 its queue, 3 the heartbeats of its waiters, 4 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds that a handover lasts, 3 milliseconds that a heartbeat lasts, 4
--   milliseconds to keep the tombstone
-- Reply: 1 if the attempt had the lock, 0 if not
-- It deletes before it writes, so that it works on a server that is at its maxmemory.
leave_queue(KEYS[2], KEYS[3], ARGV[1])
redis.call('SET', KEYS[4], '0', 'PX', ARGV[4])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if not hand_over(KEYS[1], KEYS[2], KEYS[3], now_of(redis.call('TIME')), ARGV[2], tonumber(ARGV[3])) then
  redis.call('UNLINK', KEYS[1])
end
return 1
