-- Begins a fill: puts a placeholder under a name that is missing or holds the empty string, or that still holds bytes
-- that no reader can use.
-- KEYS: 1 the entry
-- ARGV: 1 the placeholder, or a value that is to be stored only here; 2 milliseconds to keep it, 0 for ever; 3 the
-- unreadable bytes ('' for none) Reply: nil if the placeholder now stands, else what is there
local there = redis.call('GET', KEYS[1])
if there and there ~= '' and there ~= ARGV[3] then
  return there
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return false
