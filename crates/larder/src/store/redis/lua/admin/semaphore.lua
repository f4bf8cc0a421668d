-- Reads a semaphore or a read-write lock, with its holders and waiters. Changes nothing: what has ended is passed over.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen
-- ARGV: 1 the most holders and waiters to list
-- Reply: the number of permits (-1 if none is stored), the last fence of a writer, how many tokens hold permits, how
--   many attempts wait, how many holders follow; then for each listed holder its token, the milliseconds that it still
--   holds, and 1 if it has not confirmed; then for each listed waiter its token and the milliseconds since its last
--   heartbeat
-- include semaphore/queue.lua: held, number, queue, seen, milliseconds
local now, most = milliseconds(), tonumber(ARGV[1])
local ended = #redis.call('ZRANGEBYSCORE', held, '-inf', now)
local stored = redis.call('HMGET', number, 'permits', 'fence')
local reply = {
  tonumber(stored[1]) or -1,
  stored[2] or '0',
  redis.call('ZCARD', held) - ended,
  redis.call('ZCARD', queue),
  0,
}
if most > 0 then
  local holders = redis.call('ZRANGEBYSCORE', held, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  reply[5] = #holders / 2
  for i = 1, #holders, 2 do
    local claim = redis.call('HGET', seen, holders[i])
    reply[#reply + 1] = holders[i]
    reply[#reply + 1] = holders[i + 1] - now
    reply[#reply + 1] = claim and string.sub(claim, 1, 1) == 't' and 1 or 0
  end
  for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, most - 1)) do
    local heartbeat = math.abs(tonumber(redis.call('HGET', seen, waiter)) or 0)
    reply[#reply + 1] = waiter
    reply[#reply + 1] = math.max(now - heartbeat, 0)
  end
end
return reply
