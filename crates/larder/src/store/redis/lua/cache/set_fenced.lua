-- Stores a value that was written under a lock, unless a holder with a higher fence has stored one. The new
-- value's nonce invalidates a refresh that is under way.
-- KEYS: 1 the entry, 2 the highest fence that has written it
-- ARGV: 1 the value, 2 its time to live in milliseconds, 0 for none, 3 the fence, 4 milliseconds to remember
--   the fence
-- Reply: 1 if stored, 0 if refused
local highest = tonumber(redis.call('GET', KEYS[2])) or 0
if highest > tonumber(ARGV[3]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
