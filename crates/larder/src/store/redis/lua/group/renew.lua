-- Renews any number of holders of locks of groups in one slot: each gets at least the given time from now.
-- KEYS: for each holder the group and its state
-- ARGV: for each holder its token and the milliseconds
-- Reply: for each holder 1 if it still holds its locks, 0 if not
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
