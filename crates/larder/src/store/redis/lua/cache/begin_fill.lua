-- Begins a fill: writes a placeholder to an entry that is missing, that holds the empty string, or that holds
-- bytes which the caller has read and cannot decode.
-- KEYS: 1 the entry
-- ARGV: 1 the placeholder, or a value to store only if there is none; 2 milliseconds to keep it, 0 for ever;
--   3 the bytes that the caller cannot decode ('' for none)
-- Reply: nil if the placeholder was written, else the bytes that are there
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
