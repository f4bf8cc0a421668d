-- Functions for the scripts that include this file: what is stored for a lock group, and how free locks are granted.
-- The functions work on `group`, `state` and `queue`: KEYS 1 to 3, unless the script sets them to other keys.
--
-- group: a sorted set of the tokens that hold locks or have a claim on them. The score is when that ends, in
-- milliseconds of the server's time.
-- state: a hash with these fields:
--   - `n<name>`: the token that holds the lock of that name, or has a claim on it.
--   - `s<token>`: the names that the token wants or holds, separated by line feeds.
--   - `f<token>`: fence and process of a holder.
--   - `h<token>`: when the waiter's process last sent a heartbeat, in milliseconds of the server's time;
--     negative if the waiter had a claim and has sent nothing since.
--   - `#`: the last ticket.
-- queue: a sorted set of the waiting tokens, by ticket.
--
-- One key is in no KEYS: the wake-up key of a waiter that gets a claim, `<group>:wake:<token>`. No caller can
-- know it before the script runs. It shares the group's hash tag.
local group, state, queue = KEYS[1], KEYS[2], KEYS[3]
local KEPT = 8 -- waiters without a heartbeat for KEPT * live lose their place
local MOST = 256 -- waiters that one step looks at
local FENCE_KEPT = 60000

local function now_of(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function names_of(token)
  return string.gmatch(redis.call('HGET', state, 's' .. token) or '', '[^\n]+')
end

-- Keeps the keys of the group for at least `span` more, and all for the same time: a key that expired alone would
-- leave fields of tokens that hold nothing. Returns that time.
local function keep(span)
  local keys = { group, state, queue }
  for _, key in ipairs(keys) do
    span = math.max(span, redis.call('PTTL', key))
  end
  for _, key in ipairs(keys) do
    redis.call('PEXPIRE', key, span)
  end
  return span
end

local function keep_queue(live)
  return keep(2 * KEPT * live)
end

-- Returns whether a token has the lock of this name. A field of a token that is not in `group` counts for nothing:
-- the server may have lost that key alone.
local function taken(name)
  local token = redis.call('HGET', state, 'n' .. name)
  return token and redis.call('ZSCORE', group, token)
end

-- Frees what a token holds or has a claim on. Leaves the token's list of names.
local function drop_held(token)
  if redis.call('ZREM', group, token) == 1 then
    for name in names_of(token) do
      redis.call('HDEL', state, 'n' .. name)
    end
    redis.call('HDEL', state, 'f' .. token)
  end
end

-- Removes a token from the queue. Returns whether it was queued.
local function leave_queue(token)
  redis.call('HDEL', state, 'h' .. token)
  return redis.call('ZREM', queue, token) == 1
end

-- Frees what has ended. A waiter whose claim ended keeps its place in the queue.
local function expire(now)
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', group, '-inf', now)) do
    drop_held(token)
    if not redis.call('ZSCORE', queue, token) then
      redis.call('HDEL', state, 's' .. token)
    end
  end
end

local function clean_up()
  if redis.call('EXISTS', group) == 0 and redis.call('EXISTS', queue) == 0 then
    redis.call('UNLINK', state)
  end
end

-- Gives claims to live waiters whose locks are all free and wanted by no live waiter ahead of them. Returns
-- the names that live waiters want, and whether it has looked at all waiters (it looks at MOST).
local function grant(now, claim, live)
  local wanted, at, looked = {}, 0, 0
  while looked < MOST do
    local batch = redis.call('ZRANGE', queue, at, at + 15)
    if #batch == 0 then
      return wanted, true
    end
    for _, token in ipairs(batch) do
      looked = looked + 1
      local heartbeat = tonumber(redis.call('HGET', state, 'h' .. token)) or 0
      if heartbeat > 0 and now - heartbeat <= live then
        local names, free = {}, true
        for name in names_of(token) do
          names[#names + 1] = name
          free = free and not wanted[name] and not taken(name)
        end
        if free then
          redis.call('ZADD', group, now + claim, token)
          for _, name in ipairs(names) do
            redis.call('HSET', state, 'n' .. name, token)
          end
          redis.call('HSET', state, 'h' .. token, -now)
          -- The group may have had no keys with a time to live, and this waiter may never confirm its claim.
          keep_queue(live)
          redis.pcall('SET', group .. ':wake:' .. token, '1', 'PX', claim)
        else
          for _, name in ipairs(names) do
            wanted[name] = true
          end
        end
        at = at + 1
      elseif now - math.abs(heartbeat) > KEPT * live then
        leave_queue(token)
        if not redis.call('ZSCORE', group, token) then
          redis.call('HDEL', state, 's' .. token)
        end
      else
        at = at + 1
      end
    end
  end
  return wanted, false
end

