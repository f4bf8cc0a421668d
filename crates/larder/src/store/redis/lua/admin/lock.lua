-- Reads a lock, an election or the lock of a job, with its holder and waiters.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue, 4 the heartbeats of its waiters
-- ARGV: 1 the most waiters to list
-- Reply: the holder's token (empty without one), milliseconds that the lock is still held, the last fence and process,
--   1 if the holder has not confirmed, how many attempts wait; then for each listed waiter its token and the
--   milliseconds since its last heartbeat
local token = redis.call('GETRANGE', KEYS[1], 0, 15)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claims = token ~= '' and redis.call('ZSCORE', KEYS[3], token) and 1 or 0
local reply =
  { token, redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2]) or '0', claims, redis.call('ZCARD', KEYS[3]) }
local most = tonumber(ARGV[1])
if most > 0 then
  local waiters = redis.call('ZRANGE', KEYS[3], 0, most - 1, 'WITHSCORES')
  for i = 1, #waiters, 2 do
    local joined = math.floor(waiters[i + 1] / 1000)
    local heartbeat = math.max(joined, tonumber(redis.call('ZSCORE', KEYS[4], waiters[i])) or 0)
    reply[#reply + 1] = waiters[i]
    reply[#reply + 1] = math.max(now - heartbeat, 0)
  end
end
return reply
