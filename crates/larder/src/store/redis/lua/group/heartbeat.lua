-- The heartbeat of one process: keeps the places of its waiting attempts, at any number of groups in one
-- slot, and grants what is free.
-- KEYS: for each group: group, state, queue
-- ARGV: 1 milliseconds that a claim lasts, 2 milliseconds that a heartbeat lasts; then for each group how
--   many of its tokens follow, and those tokens
-- Reply: for each token 0 if it waits, 1 if it has a claim (or had one, and has sent nothing since), 2 if it
--   is not queued
-- include group/queue.lua: group, state, queue, now_of, keep_queue, expire, grant
local now = now_of(redis.call('TIME'))
local live = tonumber(ARGV[2])
local at, reply = 3, {}
for i = 1, #KEYS, 3 do
  group, state, queue = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local last = at + tonumber(ARGV[at])
  keep_queue(live)
  expire(now)
  for place = at + 1, last do
    local heartbeat = tonumber(redis.call('HGET', state, 'h' .. ARGV[place]))
    if heartbeat then
      redis.call('HSET', state, 'h' .. ARGV[place], heartbeat > 0 and now or -now)
    end
  end
  grant(now, ARGV[1], live)
  for place = at + 1, last do
    local heartbeat = tonumber(redis.call('HGET', state, 'h' .. ARGV[place]))
    reply[#reply + 1] = not heartbeat and 2 or heartbeat > 0 and 0 or 1
  end
  at = last + 1
end
return reply
