-- Renews any number of permit holders in one slot: each gets at least the given time from now.
-- KEYS: for each holder the held tokens of its semaphore, and its number
-- ARGV: for each holder its token and the milliseconds
-- Reply: for each holder 1 if it still holds its permits, 0 if not
local DAYS_30 = 2592000000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {}
for i = 1, #KEYS / 2 do
  reply[i] = 0
  local held, token, ttl = KEYS[2 * i - 1], ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local ends = tonumber(redis.call('ZSCORE', held, token))
  if ends and ends > now then
    redis.call('ZADD', held, math.max(ends, now + ttl), token)
    redis.call('PEXPIRE', held, DAYS_30)
    redis.call('PEXPIRE', KEYS[2 * i], DAYS_30)
    reply[i] = 1
  end
end
return reply
