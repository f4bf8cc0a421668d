-- The heartbeat of one process: keeps the places of its waiting attempts, at any number of semaphores in one
-- slot, and grants what is free.
-- KEYS: for each semaphore: held, number, queue, seen
-- ARGV: 1 milliseconds that a claim lasts, 2 milliseconds that a heartbeat lasts; then for each semaphore how
--   many of its tokens follow, and those tokens
-- Reply: for each token 0 if it waits, 1 if it has a claim (or had one, and has sent nothing since), 2 if it
--   is not queued
-- include semaphore/queue.lua: held, number, queue, seen, milliseconds, keep_queue, expire, count, grant
local claim, live = ARGV[1], tonumber(ARGV[2])
local now = milliseconds()
local at, reply = 3, {}
for i = 1, #KEYS, 4 do
  held, number, queue, seen = KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3]
  local last = at + tonumber(ARGV[at])
  keep_queue(live)
  expire(now, live)
  for place = at + 1, last do
    local heartbeat = tonumber(redis.call('HGET', seen, ARGV[place]) or 't')
    if heartbeat then
      redis.call('HSET', seen, ARGV[place], heartbeat > 0 and now or -now)
    end
  end
  local permits, used = count()
  if permits then
    grant(permits, used, now, claim, live)
  end
  for place = at + 1, last do
    local state = redis.call('HGET', seen, ARGV[place])
    reply[#reply + 1] = not state and 2 or (tonumber(state) or -1) > 0 and 0 or 1
  end
  at = last + 1
end
return reply
