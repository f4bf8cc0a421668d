-- Functions for the scripts that include this file: the queue of a lock, and how the lock is handed to the next
-- waiter.
-- The queue is a sorted set of the waiting attempts' tokens, by the server's time in microseconds at which
-- each joined. A second sorted set, `<lock>:seen`, has the times of later heartbeats, in milliseconds. A waiter
-- that is served before its first heartbeat is never in it, so it is often missing, and most scripts do not
-- name it in KEYS: while a slot moves, a server refuses scripts of which some keys are missing.
-- The lock's value is the holder's token, and a mark after it if attempts may wait: '+', which may be followed
-- by the time in milliseconds until which the queue's key certainly exists and does not expire. A lock without
-- the mark has no waiter, so it can be released by deleting it if it has exactly the holder's token.
-- Another key is in no KEYS: a waiter's wake-up key, `<lock>:wake:<token>`. It has '1' from a handover until the
-- waiter's process has sent no heartbeat for as long as one lasts. While a waiter has it, no further handover
-- goes to that waiter. A client that frees a lock cannot know the token before the script runs. The waiting
-- attempt named the key in its own KEYS, and the key shares the lock's hash tag. If it cannot be written, for
-- example while a slot moves, only the wake-up is lost, and the waiter's next heartbeat finds the lock.
local function now_of(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A waiter without a heartbeat for KEPT * live loses its place in the queue.
local KEPT = 8

-- The token in a lock's value, or nil.
local function token_of(value)
  return value and string.sub(value, 1, 16)
end

-- Hands the lock to the first live waiter for `claim` milliseconds and wakes it. `mark` is the mark of the
-- value that the lock had; it is kept as long as another waiter is behind. Returns the lock's new value, or
-- nil if no waiter is live.
local function hand_over(lock, queue, seen, now, claim, live, mark)
  -- Read two waiters first: the first one is nearly always live, and a batch costs more than the rest of a
  -- handover.
  local at, more = 0, 1
  while true do
    local batch = redis.call('ZRANGE', queue, at, at + more, 'WITHSCORES')
    if #batch == 0 then
      break
    end
    more = 15
    for i = 1, #batch, 2 do
      local token, heartbeat = batch[i], math.floor(batch[i + 1] / 1000)
      if heartbeat > now or now - heartbeat > live then
        local later = tonumber(redis.call('ZSCORE', seen, token)) or 0
        if heartbeat <= now then
          heartbeat = math.max(heartbeat, later)
        elseif later > 0 and later <= now then
          heartbeat = later
        else
          -- The server's clock was set back since it joined, so the time says nothing. It keeps its place, and
          -- is served after its next heartbeat.
          heartbeat = now - live - 1
        end
      end
      local woken
      if now - heartbeat <= live then
        local wake = lock .. ':wake:' .. token
        woken = redis.pcall('SET', wake, '1', 'NX', 'PX', live)
        if woken and woken.err and string.find(woken.err, 'OOM', 1, true) then
          -- A server that is at its maxmemory lets a script write only after it has deleted something.
          redis.call('UNLINK', lock)
          woken = redis.pcall('SET', wake, '1', 'NX', 'PX', live)
        end
      end
      if woken then
        local value = token .. ((at > 0 or i + 2 < #batch) and mark or '+')
        redis.call('SET', lock, value, 'PX', claim)
        return value
      end
      if now - heartbeat > KEPT * live then
        redis.call('ZREM', queue, token)
        redis.call('ZREM', seen, token)
      else
        at = at + 1
      end
    end
  end
  if at == 0 then
    redis.call('UNLINK', seen)
  end
end

-- Records the heartbeats of waiters: `beats` has a time and a token for each. PEXPIRE comes first because it
-- needs no memory: a waiter keeps its place on a server that is at its maxmemory.
local function beat(queue, seen, live, beats)
  redis.call('PEXPIRE', queue, 2 * KEPT * live)
  redis.call('ZADD', seen, unpack(beats))
  redis.call('PEXPIRE', seen, 2 * KEPT * live)
end

