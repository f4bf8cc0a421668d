-- Functions for the scripts that include this file: what is stored for a semaphore, and how free permits are granted.
-- The functions work on `held`, `number`, `queue` and `seen`: KEYS 1 to 4, unless the script sets them to other keys.
--
-- held: a sorted set of the tokens that hold permits or have a claim on them. The score is when that ends, in
-- milliseconds of the server's time.
-- number: a hash with these fields:
--   - `permits`: how many permits there are.
--   - `version`: the version of the last set_permits.
--   - `ticket`: the last ticket of the queue.
--   - `extra`: by how much the weights of the held tokens exceed the number of tokens; missing for 0.
--   - `fence`: the last fence.
-- queue: a sorted set of the waiting tokens, by ticket.
-- seen: a hash by token. For a waiter: when its process last sent a heartbeat, in milliseconds of the
-- server's time; negative if a claim of it ended and it has sent nothing since. For a claim: `t` and the
-- ticket, which gives the waiter its place back if the claim ends.
--
-- A token is 16 hexadecimal digits; the last four are its weight. One key is in no KEYS: the wake-up key of a
-- waiter that is granted a claim, `<held>:wake:<token>`. No caller can know it before the script runs. It
-- shares the semaphore's hash tag.
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

-- Removes what has ended, at most 512 tokens at a time. A waiter whose claim ended returns to its place in
-- the queue, which may be empty and have no time to live until then.
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

-- Returns how many permits there are (false if no number is stored) and how many of them are used.
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

-- Stores a number where there is none. Perhaps only the number was lost, so what is held still counts.
local function create(permits)
  redis.call('HDEL', number, 'extra')
  redis.call('HSET', number, 'permits', permits)
  for _, token in ipairs(redis.call('ZRANGE', held, 0, -1)) do
    add_extra(weight_of(token))
  end
end

-- Returns a fence that is higher than all earlier ones and than the server's time in microseconds; 0 if the
-- caller does not ask for one.
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

-- Grants what is free to the first live waiters. Returns how many permits are then used, and whether no live
-- waiter is left.
local function grant(permits, used, now, claim, live)
  if used >= permits then
    return used, false
  end
  local grants, at, more = 0, 0, 0
  while true do
    -- Read one token first: the first waiter is nearly always live, and often takes all that is free.
    local batch = redis.call('ZRANGE', queue, at, at + more, 'WITHSCORES')
    if #batch == 0 then
      return used, true
    end
    more = 15
    for i = 1, #batch, 2 do
      local token, heartbeat = batch[i], tonumber(redis.call('HGET', seen, batch[i])) or 0
      if heartbeat > 0 and now - heartbeat <= live then
        local weight = weight_of(token)
        if weight > permits then
          -- The waiter is woken, and its next request learns that it can never be granted.
          redis.call('ZREM', queue, token)
          redis.call('HDEL', seen, token)
          wake(token, claim)
        elseif used + weight > permits or grants == MOST_GRANTS then
          return used, false
        else
          redis.call('ZREM', queue, token)
          redis.call('ZADD', held, now + claim, token)
          if grants == 0 then
            -- `held` may have been empty until now and have no time to live, and this waiter may never
            -- confirm its claim.
            redis.call('PEXPIRE', held, DAYS_30)
          end
          add_extra(weight)
          redis.call('HSET', seen, token, 't' .. batch[i + 1])
          wake(token, claim)
          used, grants = used + weight, grants + 1
        end
      elseif now - math.abs(heartbeat) > KEPT * live then
        redis.call('ZREM', queue, token)
        redis.call('HDEL', seen, token)
      else
        at = at + 1
      end
    end
  end
end

