-- Begins a fill: puts a placeholder under a name that is missing or holds the empty string, or that still holds bytes that
-- no reader can use.
-- KEYS: 1 the entry
-- ARGV: 1 the placeholder, 2 its liveness in milliseconds, 3 the unreadable bytes ('' for none)
-- Reply: nil if the placeholder now stands, else what is there
local there = redis.call('GET', KEYS[1])
if there and there ~= '' and there ~= ARGV[3] then
  return there
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
