-- Acquires a lock that has no holder and no waiter. Otherwise enqueues the attempt, if it asks for that. A
-- client sends this script once for each token.
-- This script runs on the tracking connection, where the server would later report a change of every key that
-- a read command reads here. So it tests keys by commands that write, and reads only the wake-up key, whose
-- change it wants to be reported. Calls, arguments and conversions of numbers to text are what costs time
-- here: a free lock takes five calls and five arguments, and an attempt that joins a queue takes four calls.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the attempt's wake-up key. Redis before 7.2 reports the
--   next change of each of them.
-- ARGV: 1 the attempt's token, 2 milliseconds to hold the lock, 3 milliseconds to remember its fence, 4 three
--   numbers separated by spaces: 1 to enqueue or 0, milliseconds that a handover lasts, milliseconds that a
--   heartbeat lasts; 5 a space and the holder's process
-- Reply: the fence if acquired, 0 if not, 1 if enqueued, -1 if the attempt was cancelled before this request
--   arrived
-- Locals that acquire_queued.lua uses: held (the lock's value, false if this attempt has just set it), time
local held
if redis.REDIS_VERSION_NUM then
  held = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2], 'GET')
elseif not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  -- Redis before 7 has no SET with both NX and GET. Attempts are not sent on its tracking connection.
  held = redis.call('GET', KEYS[1])
end
local time = redis.call('TIME')
if not held and redis.call('PEXPIRE', KEYS[4], '30000') == 1 then
  redis.call('UNLINK', KEYS[1])
  return -1
end
if not held and redis.call('PEXPIRE', KEYS[3], '10560') == 0 then
  -- The same as next_fence in fence.lua, without the cost of making a function.
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

