-- Commits a fill: replaces the placeholder that the fill began with by the loaded value. Stores nothing if
-- the entry holds anything else.
-- KEYS: 1 the entry
-- ARGV: 1 the placeholder, 2 the value, 3 milliseconds to keep it, 0 for ever
-- Reply: 1 if it was stored, 0 if the fill was invalidated
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
