-- The heartbeat of one process: keeps the places of its waiting attempts, for any number of locks in one
-- slot, and hands on the locks that are free because a holder's or a handover's time has ended.
-- KEYS: for each lock: the lock, its queue, the heartbeats of its waiters
-- ARGV: 1 milliseconds that a handover lasts, 2 milliseconds that a heartbeat lasts; then for each lock how
--   many of its tokens follow, and those tokens
-- Reply: for each token 0 if it waits, 1 if it was handed the lock, 2 if it is not queued
-- include lock/queue.lua: now_of, KEPT, token_of, hand_over, beat
local now = now_of(redis.call('TIME'))
local live = tonumber(ARGV[2])
local at, reply = 3, {}
for i = 1, #KEYS, 3 do
  local lock, queue, seen = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local last = at + tonumber(ARGV[at])
  local answers, wakes, queued, beats = {}, {}, {}, {}
  for place = at + 1, last do
    local token = ARGV[place]
    answers[token] = 2
    if redis.call('ZSCORE', queue, token) then
      answers[token] = 0
      queued[#queued + 1] = token
      wakes[#wakes + 1] = lock .. ':wake:' .. token
      beats[#beats + 1] = now
      beats[#beats + 1] = token
    end
  end
  if #queued > 0 then
    beat(queue, seen, live, beats)
    -- What waiters that are gone have left behind.
    local gone = redis.call('ZRANGEBYSCORE', seen, '-inf', now - KEPT * live, 'LIMIT', 0, 1000)
    if #gone > 0 then
      redis.call('ZREM', seen, unpack(gone))
    end
    local woken = redis.pcall('MGET', unpack(wakes))
    for place, token in ipairs(queued) do
      if not woken.err and woken[place] then
        redis.pcall('PEXPIRE', wakes[place], live)
        answers[token] = 1
      end
    end
  end
  local holder = token_of(redis.call('GET', lock) or hand_over(lock, queue, seen, now, ARGV[1], live, '+'))
  if holder and answers[holder] == 0 then
    answers[holder] = 1
  end
  for place = at + 1, last do
    reply[#reply + 1] = answers[ARGV[place]]
  end
  at = last + 1
end
return reply
