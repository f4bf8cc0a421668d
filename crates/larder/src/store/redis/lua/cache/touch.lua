-- Gives an entry a new expiry. A placeholder or a cached absence does not count as an entry: see
-- docs/wire-format.md, byte 2.
-- KEYS: 1 the entry
-- ARGV: 1 milliseconds, 0 for never
-- Reply: 1 if there was an entry, 0 if not
local start = redis.call('GETRANGE', KEYS[1], 0, 2)
local magic, layout, kind = string.byte(start, 1, 3)
if start == '' or (magic == 0x9A and layout == 1 and (kind or 0) >= 64) then
  return 0
end
if ARGV[1] == '0' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
