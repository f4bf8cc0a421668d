-- Extends any number of locks in one slot to at least the given time from now, and the memory of their fences to
-- a minute more. It never shortens the time of a lock: a holder that gets no answer could not tell whether a
-- shortening took effect.
-- KEYS: for each lock the lock and its last fence
-- ARGV: for each lock the holder's token and the milliseconds
-- Reply: for each lock 1 if the token still holds it; otherwise the present holder as in held_by.lua, or 0 if that
--   cannot be read. The queue, which is read only then, is not in KEYS because it is often missing, and while a slot
--   moves a server refuses scripts of which some keys are missing.
-- include lock/held_by.lua: held_by
local FENCE_KEPT = 60000
local reply = {}
for i = 1, #KEYS / 2 do
  local lock, fence, ttl = KEYS[2 * i - 1], KEYS[2 * i], tonumber(ARGV[2 * i])
  if redis.call('GETRANGE', lock, 0, 15) == ARGV[2 * i - 1] then
    if redis.call('PTTL', lock) < ttl then
      redis.call('PEXPIRE', lock, ttl)
      redis.call('PEXPIRE', fence, ttl + FENCE_KEPT)
    end
    reply[i] = 1
  else
    local read, holder = pcall(held_by, lock, fence, lock .. ':line')
    reply[i] = read and holder or 0
  end
end
return reply
