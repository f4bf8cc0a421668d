-- Keeps the places of waiting attempts of one process, of any number of locks in one slot, and hands on what is free: a
-- lock whose holder is gone, or that was handed to somebody who did not come for it.
-- KEYS: for each lock: the lock, its line, when its waiters were heard of
-- ARGV: 1 and 2 milliseconds that a lock is handed over for and that a waiter counts as alive; then for each lock how
--   many of its tokens follow, and those
-- Reply: for each token 0 if it waits, 1 if it is its turn, or was, 2 if it does not stand in line
local now = now_of(redis.call('TIME'))
local live = tonumber(ARGV[2])
local at, reply = 3, {}
for i = 1, #KEYS, 3 do
  local lock, line, seen = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local last = at + tonumber(ARGV[at])
  local answers = {}
  -- A write that needs no memory comes first, so that the places are kept on a server that is at its maxmemory.
  keep_line(line, seen, live)
  for place = at + 1, last do
    local token = ARGV[place]
    local heard = tonumber(redis.call('HGET', seen, token))
    answers[token] = 2
    if heard then
      local came = heard > 0
      redis.call('HSET', seen, token, came and now or -now)
      answers[token] = came and 0 or 1
    end
  end
  local holder = redis.call('GET', lock) or hand_on(lock, line, seen, now, ARGV[1], live)
  if holder and answers[holder] == 0 then
    answers[holder] = 1
  end
  for place = at + 1, last do
    reply[#reply + 1] = answers[ARGV[place]]
  end
  at = last + 1
end
return reply
