-- Gives a key other limits for a while, ends that, or reads it; or resets the key, which forgets what was
-- charged to it. override_rest.lua is the second half.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the microseconds that the override lasts (7), the milliseconds that a record lives (7), and the
--   terms as they are in front of a record (25 each); without terms the override ends. No argument reads the
--   override. '-' resets the key
-- Reply: {microseconds left, its terms} of the override before the change; of a reset 1 if anything was
--   charged, 0 if not
-- Locals that limit.lua and override_rest.lua use: ask, clock, record
local ask = ARGV[1] or ''
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])
-- What is no record, and so no script can read, is forgotten whole.
if ask == '-' and record and (#record < 29 or string.byte(record) > 4 and string.byte(record) ~= 255) then
  redis.call('UNLINK', KEYS[1])
  return 1
end
