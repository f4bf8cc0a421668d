-- The heartbeat of one process: keeps the places of its waiting attempts, for any number of locks in one
-- slot, and hands on the locks that are free because a holder's or a handover's time has ended.
-- KEYS: for each lock: the lock, its queue, the heartbeats of its waiters
-- ARGV: 1 milliseconds that a handover lasts, 2 milliseconds that a heartbeat lasts; then for each lock how
--   many of its tokens follow, and those tokens
-- Reply: for each token 0 if it waits, 1 if it was handed the lock, 2 if it is not queued
local now = now_of(redis.call('TIME'))
local live = tonumber(ARGV[2])
local at, reply = 3, {}
for i = 1, #KEYS, 3 do
  local lock, queue, seen = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local last = at + tonumber(ARGV[at])
  local answers = {}
  -- PEXPIRE comes first because it needs no memory: the places are kept on a server that is at its maxmemory.
  keep_queue(queue, seen, live)
  for place = at + 1, last do
    local token = ARGV[place]
    local heartbeat = tonumber(redis.call('HGET', seen, token))
    answers[token] = 2
    if heartbeat then
      local waits = heartbeat > 0
      redis.call('HSET', seen, token, waits and now or -now)
      answers[token] = waits and 0 or 1
    end
  end
  local holder = redis.call('GET', lock) or hand_over(lock, queue, seen, now, ARGV[1], live)
  if holder and answers[holder] == 0 then
    answers[holder] = 1
  end
  for place = at + 1, last do
    reply[#reply + 1] = answers[ARGV[place]]
  end
  at = last + 1
end
return reply
