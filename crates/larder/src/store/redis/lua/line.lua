-- Stands inside the scripts of a lock, behind what they do where nobody waits: the lock's line, and how the lock is handed on. No
-- script by itself.
--
-- The line is a sorted set of the waiting attempts' tokens by ticket. Beside it a hash says when each was last heard of, in
-- milliseconds of the server's time: below zero, if it was given the lock and has not come for it since. Its field '#' is
-- the last ticket.
--
-- The one key that no KEYS names is the wake-up key of who is next, `<lock>:wake:<token>`: who frees a lock cannot know it
-- before. The waiting attempt named it in its own KEYS; it shares the lock's hash tag; and where it cannot be written, as
-- while a slot moves, only a hint is lost.
local function now_of(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The attempts that are not heard of for this many times `live` lose their place.
local KEPT = 8

-- Gives the lock to the first in line that lives, for as long as `claim` says, and wakes it: its token, or nil if there
-- is none.
local function hand_on(lock, line, seen, now, claim, live)
  -- The first lives nearly always, and a batch of tokens costs more than the rest of a handover.
  local at, more = 0, 0
  while true do
    local batch = redis.call('ZRANGE', line, at, at + more)
    if #batch == 0 then
      break
    end
    more = 15
    for _, token in ipairs(batch) do
      local heard = tonumber(redis.call('HGET', seen, token)) or 0
      if heard > 0 and now - heard <= live then
        redis.call('SET', lock, token, 'PX', claim)
        redis.call('HSET', seen, token, -now)
        redis.pcall('SET', lock .. ':wake:' .. token, '1', 'PX', claim)
        return token
      end
      if now - math.abs(heard) > KEPT * live then
        redis.call('ZREM', line, token)
        redis.call('HDEL', seen, token)
      else
        at = at + 1
      end
    end
  end
  if at == 0 then
    redis.call('UNLINK', seen)
  end
end

local function keep_line(line, seen, live)
  redis.call('PEXPIRE', line, 2 * KEPT * live)
  redis.call('PEXPIRE', seen, 2 * KEPT * live)
end

-- Whether it stood in line.
local function step_out(line, seen, token)
  if redis.call('ZREM', line, token) == 0 then
    return false
  end
  redis.call('HDEL', seen, token)
  if redis.call('EXISTS', line) == 0 then
    redis.call('UNLINK', seen)
  end
  return true
end

