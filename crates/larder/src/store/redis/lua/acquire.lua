-- Takes a lock that nobody holds and nobody waits for; else stands in line, if told to. Sent once for each token.
--
-- It runs on the connection that is told of changes, and whatever a read command there touches is told of later. So all
-- that it asks on its usual ways, it asks by commands that write; and the one read is of the wake-up key.
-- KEYS: 1 the lock, 2 its last fence, 3 its line, 4 when its waiters were heard of, 5 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it, 3 '1' to stand in line, 4 and 5 milliseconds that a lock is handed
--   over for and that a waiter counts as alive, 6 milliseconds that a given-up attempt is remembered, 7 milliseconds that a line is
--   kept
-- Reply: {1, fence} if taken, {0, 0} if not, {2, 0} if now in line, {-1, 0} if the attempt had been given up before
if redis.call('PEXPIRE', KEYS[5], ARGV[6]) == 1 then
  return { -1, 0 }
end
local waited_for = redis.call('PEXPIRE', KEYS[3], ARGV[7]) == 1
local time = redis.call('TIME')
local taken = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not waited_for then
  -- As fence.lua says it.
  local now = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('GETSET', KEYS[2], string.format('%.0f', now))) or 0
  if last >= now then
    now = last + 1
    redis.call('SET', KEYS[2], string.format('%.0f', now))
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[2] + 60000)
  return { 1, now }
end
if not taken and ARGV[3] ~= '1' then
  return { 0, 0 }
end

