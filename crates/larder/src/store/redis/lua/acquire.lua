-- Takes a lock that nobody holds and nobody waits for; else stands in line, if told to. Sent once for each token.
--
-- It runs on the connection that is told of changes, and whatever a read command there touches is told of later. So all
-- that it asks on its usual ways, it asks by commands that write; and the one read is of the wake-up key. What costs here is a
-- call, an argument, and making text of a number: a free lock is taken with five calls and five arguments.
-- KEYS: 1 the lock, 2 its last fence, 3 its line, 4 when its waiters were heard of, 5 the attempt's wake-up key
-- ARGV: 1 the attempt's token, 2 milliseconds to hold it, 3 milliseconds to remember its fence, 4 three numbers with spaces between:
--   1 to stand in line, else 0, and milliseconds that a lock is handed over for and that a waiter counts as alive,
--   5 a space and the holder's process
-- Reply: its fence if taken, 0 if not, 1 if now in line, -1 if the attempt had been given up before
if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then
  return -1
end
local waited_for = redis.call('PEXPIRE', KEYS[3], '10560') == 1
local time = redis.call('TIME')
local taken = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not waited_for then
  -- As fence.lua says it.
  local fence = time[1] * 1000000 + time[2]
  local text = time[1] .. string.sub('00000' .. time[2], -6) .. ARGV[5]
  local last
  if redis.REDIS_VERSION_NUM then
    last = redis.call('SET', KEYS[2], text, 'PX', ARGV[3], 'GET')
  else
    last = redis.call('GETSET', KEYS[2], text)
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
  end
  last = last and tonumber(string.sub(last, 1, 16))
  if last and last >= fence then
    fence = last + 1
    redis.call('SET', KEYS[2], string.format('%.0f', fence) .. ARGV[5], 'PX', ARGV[3])
  end
  return fence
end

