-- Stands before each script of a lock: the lock's line, and how the lock is handed on. No script by itself.
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
  local at = 0
  while true do
    local batch = redis.call('ZRANGE', line, at, at + 15)
    if #batch == 0 then
      break
    end
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

local function step_out(line, seen, token)
  if redis.call('ZREM', line, token) == 1 then
    redis.call('HDEL', seen, token)
    if redis.call('EXISTS', line) == 0 then
      redis.call('UNLINK', seen)
    end
  end
end

-- Higher than any before: than the last one given while that is remembered, and than the server's time in microseconds at
-- every earlier grant, so that lost data does not lower it. GETSET is a write, so nobody's reads are tracked by it.
local function next_fence(key, ttl, time)
  local now = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('GETSET', key, string.format('%.0f', now))) or 0
  local fence = math.max(now, last + 1)
  if fence ~= now then
    redis.call('SET', key, string.format('%.0f', fence))
  end
  -- The time is the floor; the last fence only matters while a clock could step back behind it.
  redis.call('PEXPIRE', key, ttl + 60000)
  return fence
end

