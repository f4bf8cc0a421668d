-- Renews any number of holders of locks of groups in one slot: each gets at least the given time from now.
-- KEYS: for each holder: group, state, queue, the group's last fence
-- ARGV: for each holder its token and the milliseconds
-- Reply: for each holder 1 if it still holds its locks, 0 if not
-- include group/queue.lua: group, state, queue, FENCE_KEPT, now_of, keep
local now = now_of(redis.call('TIME'))
local reply = {}
for i = 1, #KEYS / 4 do
  reply[i] = 0
  group, state, queue = KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1]
  local token, ttl = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local ends = tonumber(redis.call('ZSCORE', group, token))
  if ends and ends > now then
    redis.call('ZADD', group, math.max(ends, now + ttl), token)
    redis.call('PEXPIRE', KEYS[4 * i], keep(ttl + FENCE_KEPT))
    reply[i] = 1
  end
end
return reply
