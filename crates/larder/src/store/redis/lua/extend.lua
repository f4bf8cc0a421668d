-- Gives the holders of locks, any number in one slot, at least so much time, counted from now. It never shortens a lock: the
-- holder could not tell whether a shortening that it got no answer to took effect.
-- KEYS: the locks
-- ARGV: for each the holder's token, and milliseconds
-- Reply: for each 1 if the token still held it, 0 if not
local reply = {}
for i, lock in ipairs(KEYS) do
  reply[i] = 0
  if redis.call('GET', lock) == ARGV[2 * i - 1] then
    if redis.call('PTTL', lock) < tonumber(ARGV[2 * i]) then
      redis.call('PEXPIRE', lock, ARGV[2 * i])
    end
    reply[i] = 1
  end
end
return reply
