-- Extends any number of locks in one slot to at least the given time from now. It never shortens the time of
-- a lock: a holder that gets no answer could not tell whether a shortening took effect.
-- KEYS: the locks
-- ARGV: for each lock the holder's token and the milliseconds
-- Reply: for each lock 1 if the token still holds it, 0 if not
local reply = {}
for i, lock in ipairs(KEYS) do
  reply[i] = 0
  if redis.call('GETRANGE', lock, 0, 15) == ARGV[2 * i - 1] then
    if redis.call('PTTL', lock) < tonumber(ARGV[2 * i]) then
      redis.call('PEXPIRE', lock, ARGV[2 * i])
    end
    reply[i] = 1
  end
end
return reply
