-- Part of the scripts of a lock: its queue, and how the lock is handed to the next waiter. Not a script by
-- itself. In acquire.lua and release.lua it follows the steps for a lock without waiters, which then need not
-- make these functions.
-- The queue is a sorted set of the waiting attempts' tokens, by ticket. A hash beside it has the time of each
-- waiter's last heartbeat, in milliseconds of the server's time; the time is negative if the waiter was
-- handed the lock and has sent no heartbeat since. The hash's field '#' is the last ticket.
-- One key is in no KEYS: the next waiter's wake-up key, `<lock>:wake:<token>`. A client that frees a lock
-- cannot know that token before the script runs. The waiting attempt named the key in its own KEYS, and the
-- key shares the lock's hash tag. If it cannot be written, for example while a slot moves, only the wake-up
-- is lost, and the waiter's next heartbeat finds the lock.
local function now_of(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A waiter without a heartbeat for KEPT * live loses its place in the queue.
local KEPT = 8

-- Hands the lock to the first live waiter for `claim` milliseconds and wakes it. Returns the waiter's token,
-- or nil if no waiter is live.
local function hand_over(lock, queue, seen, now, claim, live)
  -- Read one token first: the first waiter is nearly always live, and a batch costs more than the rest of a
  -- handover.
  local at, more = 0, 0
  while true do
    local batch = redis.call('ZRANGE', queue, at, at + more)
    if #batch == 0 then
      break
    end
    more = 15
    for _, token in ipairs(batch) do
      local heartbeat = tonumber(redis.call('HGET', seen, token)) or 0
      if heartbeat > 0 and now - heartbeat <= live then
        redis.call('SET', lock, token, 'PX', claim)
        redis.call('HSET', seen, token, -now)
        redis.pcall('SET', lock .. ':wake:' .. token, '1', 'PX', claim)
        return token
      end
      if now - math.abs(heartbeat) > KEPT * live then
        redis.call('ZREM', queue, token)
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

local function keep_queue(queue, seen, live)
  redis.call('PEXPIRE', queue, 2 * KEPT * live)
  redis.call('PEXPIRE', seen, 2 * KEPT * live)
end

-- Removes a token from the queue. Returns whether it was queued.
local function leave_queue(queue, seen, token)
  if redis.call('ZREM', queue, token) == 0 then
    return false
  end
  redis.call('HDEL', seen, token)
  if redis.call('EXISTS', queue) == 0 then
    redis.call('UNLINK', seen)
  end
  return true
end

