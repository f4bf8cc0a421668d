-- Reads a lock group with its holders and waiters. Changes nothing: what has ended is passed over.
-- KEYS: 1 group, 2 state, 3 queue
-- ARGV: 1 the most holders and waiters to list
-- Reply: how many tokens hold locks, how many attempts wait, how many holders follow; then for each listed holder its
--   token, the milliseconds that it still holds, fence and process (empty if it has not confirmed) and its locks; then
--   for each listed waiter its token, the milliseconds since its last heartbeat, and the locks that it wants. Locks are
--   separated by line feeds
-- include group/queue.lua: group, state, queue, now_of
local now, most = now_of(redis.call('TIME')), tonumber(ARGV[1])
local ended = #redis.call('ZRANGEBYSCORE', group, '-inf', now)
local reply = { redis.call('ZCARD', group) - ended, redis.call('ZCARD', queue), 0 }
if most > 0 then
  local holders = redis.call('ZRANGEBYSCORE', group, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  reply[3] = #holders / 2
  for i = 1, #holders, 2 do
    reply[#reply + 1] = holders[i]
    reply[#reply + 1] = holders[i + 1] - now
    reply[#reply + 1] = redis.call('HGET', state, 'f' .. holders[i]) or ''
    reply[#reply + 1] = redis.call('HGET', state, 's' .. holders[i]) or ''
  end
  for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, most - 1)) do
    local heartbeat = math.abs(tonumber(redis.call('HGET', state, 'h' .. waiter)) or 0)
    reply[#reply + 1] = waiter
    reply[#reply + 1] = math.max(now - heartbeat, 0)
    reply[#reply + 1] = redis.call('HGET', state, 's' .. waiter) or ''
  end
end
return reply
