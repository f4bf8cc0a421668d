-- Gives the holders of locks of groups, any number in one slot, at least so much time, counted from now.
-- KEYS: for each the group and its state
-- ARGV: for each its token, and milliseconds
-- Reply: for each 1 if it was still held, 0 if not
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {}
for i = 1, #KEYS / 2 do
  reply[i] = 0
  local group, token, ttl = KEYS[2 * i - 1], ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local ends = tonumber(redis.call('ZSCORE', group, token))
  if ends and ends > now then
    redis.call('ZADD', group, math.max(ends, now + ttl), token)
    for at = 2 * i - 1, 2 * i do
      if redis.call('PTTL', KEYS[at]) < ttl + 60000 then
        redis.call('PEXPIRE', KEYS[at], ttl + 60000)
      end
    end
    reply[i] = 1
  end
end
return reply
