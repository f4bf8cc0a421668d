-- Part of each script of a semaphore: what is stored, and how free permits are granted. Not a script by itself.
--
-- held    a sorted set: the tokens that hold permits, by the server's time in milliseconds at which they end
-- number a hash: `permits`, how many there are; `version`, of the last set_permits; `ticket`, the last ticket of the
--   queue;
--         `extra`, by how much the weights of the held tokens exceed their count (missing: 0); `fence`, the last one
-- queue   a sorted set: the waiting tokens by ticket
-- seen a hash by token. Of a waiter: when its process last sent a heartbeat, in milliseconds of the server's time;
--   below
--         zero if a claim of it ended and it has not asked since. Of a claim: `t` and the ticket, for its place if it ends
--
-- A token is 16 hexadecimal digits; the last four are its weight. The one key that no KEYS name is the wake-up key of a
-- waiter that is granted a claim, `<held>:wake:<token>`: no caller can know it, and it shares the hash tag.
local held, number, queue, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local KEPT = 8 -- waiters without a heartbeat for KEPT * live lose their place
local MOST_GRANTS = 64
local DAYS_30 = 2592000000

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function weight_of(token)
  return tonumber(string.sub(token, 13), 16)
end

local function keep()
  redis.call('PEXPIRE', held, DAYS_30)
  redis.call('PEXPIRE', number, DAYS_30)
end

local function keep_queue(live)
  redis.call('PEXPIRE', queue, 2 * KEPT * live)
  redis.call('PEXPIRE', seen, 2 * KEPT * live)
end

local function add_extra(weight)
  if weight ~= 1 and redis.call('HINCRBY', number, 'extra', weight - 1) == 0 then
    redis.call('HDEL', number, 'extra')
  end
end

local function drop_held(token)
  if redis.call('ZREM', held, token) == 1 then
    local weight = weight_of(token)
    if weight ~= 1 and redis.call('HINCRBY', number, 'extra', 1 - weight) == 0 then
      redis.call('HDEL', number, 'extra')
    end
  end
end

-- Takes out what has ended, at most 512 at a time. The waiter of a claim that ended is back in its place, perhaps in a
-- queue that was empty.
local function expire(now, live)
  local back = false
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now, 'LIMIT', 0, 512)) do
    drop_held(token)
    local ticket = redis.call('HGET', seen, token)
    if ticket and string.sub(ticket, 1, 1) == 't' then
      redis.call('ZADD', queue, string.sub(ticket, 2), token)
      redis.call('HSET', seen, token, -now)
      back = true
    end
  end
  if back then
    keep_queue(live)
  end
end

-- How many permits there are, false if no number is stored, and how many of them are used.
local function count()
  local stored = redis.call('HMGET', number, 'permits', 'extra')
  local used = redis.call('ZCARD', held)
  if stored[2] and used == 0 then
    redis.call('HDEL', number, 'extra')
  elseif stored[2] then
    used = used + stored[2]
  end
  return tonumber(stored[1]) or false, used
end

-- Stores a number where none is. Only the number may have been lost: what is held still counts.
local function create(permits)
  redis.call('HDEL', number, 'extra')
  redis.call('HSET', number, 'permits', permits)
  for _, token in ipairs(redis.call('ZRANGE', held, 0, -1)) do
    add_extra(weight_of(token))
  end
end

-- The fence of a grant: higher than any before, and than the server's time in microseconds. 0 if none was asked for.
local function fence_if(asked)
  if asked ~= '1' then
    return 0
  end
  local time = redis.call('TIME')
  local fence = math.max(time[1] * 1000000 + time[2], (tonumber(redis.call('HGET', number, 'fence')) or 0) + 1)
  redis.call('HSET', number, 'fence', string.format('%.0f', fence))
  return fence
end

local function wake(token, claim)
  redis.pcall('SET', held .. ':wake:' .. token, '1', 'PX', claim)
end

-- Grants what is free to the first live waiters. Replies how many permits are used then, and whether no live waiter is
-- left.
local function grant(permits, used, now, claim, live)
  if used >= permits then
    return used, false
  end
  local grants, at, more = 0, 0, 0
  while true do
    -- The first waiter lives nearly always, and often is all that can be granted.
    local batch = redis.call('ZRANGE', queue, at, at + more, 'WITHSCORES')
    if #batch == 0 then
      return used, true
    end
    more = 15
    for i = 1, #batch, 2 do
      local token, heard = batch[i], tonumber(redis.call('HGET', seen, batch[i])) or 0
      if heard > 0 and now - heard <= live then
        local weight = weight_of(token)
        if weight > permits then
          -- Woken, it learns that it can never be granted.
          redis.call('ZREM', queue, token)
          redis.call('HDEL', seen, token)
          wake(token, claim)
        elseif used + weight > permits or grants == MOST_GRANTS then
          return used, false
        else
          redis.call('ZREM', queue, token)
          redis.call('ZADD', held, now + claim, token)
          if grants == 0 then
            -- Nobody may have held any, and nobody may come for this one.
            redis.call('PEXPIRE', held, DAYS_30)
          end
          add_extra(weight)
          redis.call('HSET', seen, token, 't' .. batch[i + 1])
          wake(token, claim)
          used, grants = used + weight, grants + 1
        end
      elseif now - math.abs(heard) > KEPT * live then
        redis.call('ZREM', queue, token)
        redis.call('HDEL', seen, token)
      else
        at = at + 1
      end
    end
  end
end

