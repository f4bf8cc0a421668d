-- Resets a key: forgets what was charged to it, and its blocks. Its override stays.
-- KEYS: 1 the record, see limit.lua
-- Reply: 1 if anything was charged, 0 if not
local record = redis.call('GET', KEYS[1])
if not record then
  return 0
end
-- What is in front of the record of a key with an override: see limit.lua. Anything else is forgotten, also what is no
-- record and so no other script can read.
local charged = 1
if #record >= 30 and string.byte(record) == 255 then
  local length, over, _, many = struct.unpack('>I2I7I7B', record, 2)
  if length == 30 + 25 * many and #record >= length then
    charged = #record > length and 1 or 0
    local time = redis.call('TIME')
    local left = math.ceil((over - time[1] * 1000000 - time[2]) / 1000)
    if left > 0 then
      -- Only the override, without its block (12 bytes).
      local kept = string.sub(record, 1, 18) .. string.rep('\0', 12) .. string.sub(record, 31, length)
      redis.call('SET', KEYS[1], kept, 'PX', string.format('%d', left))
      return charged
    end
  end
end
redis.call('UNLINK', KEYS[1])
return charged
