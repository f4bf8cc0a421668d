-- Checks whether tokens still hold their locks or permits, and writes a key. WAIT, sent next on the same
-- connection, then waits until replicas acknowledge that write, and with it all earlier writes of this
-- connection.
-- KEYS: the locks, or the held tokens of semaphores and groups; the last one is the key to write
-- ARGV: for each key but the last: 's' and the token of a lock (a string), or 'z' and the token of a member
--   of a sorted set whose score is its expiry
-- Reply: for each key but the last: 1 if it is held, 0 if not
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {}
for i = 1, #KEYS - 1 do
  local kind, token = string.sub(ARGV[i], 1, 1), string.sub(ARGV[i], 2)
  local held
  if kind == 's' then
    held = redis.call('GETRANGE', KEYS[i], 0, 15) == token
  else
    held = (tonumber(redis.call('ZSCORE', KEYS[i], token)) or 0) > now
  end
  reply[i] = held and 1 or 0
end
redis.call('SET', KEYS[#KEYS], '1', 'PX', '1000')
return reply
