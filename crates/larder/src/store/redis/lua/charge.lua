-- Charges a rate limit's window, or tells what charging would answer. The rule is strict buckets, as explained in
-- store/memory/limits.rs: the current bucket and the sixty before it are summed, the oldest counted in full.
-- The record is one string: the bucket's width and the newest bucket's index as 8 bytes each, then 61 counts of 4
-- bytes, newest first, all big-endian.
-- KEYS: 1 the window
-- ARGV: 1 the limit, 2 microseconds a bucket, 3 the cost, 4 1 to charge and 0 to look
-- Reply: {1 allowed | 0 refused, remaining, microseconds until it would be allowed, microseconds until all is back}
local BUCKETS = 60
local limit, width, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local current = math.floor(now / width)

-- counts[i] is what the bucket i places before the newest admitted
local counts, newest, total = {}, current, 0
local record = redis.call('GET', KEYS[1])
if record then
  local old_width, old_newest = struct.unpack('>I8I8', record)
  local same = old_width == width
  local old_current = math.max(math.floor(now / old_width), old_newest)
  -- a clock that stepped back must not open buckets before the newest
  newest = same and old_current or current
  for i = 0, BUCKETS do
    local count = struct.unpack('>I4', record, 17 + 4 * i)
    local age = old_current - (old_newest - i)
    if count > 0 and age <= BUCKETS then
      -- after a change of window all that the old one still counts is as if taken just now
      local place = same and age or 0
      counts[place] = (counts[place] or 0) + count
      total = total + count
    end
  end
end

local function leaves_after(place)
  return math.max((newest - place + BUCKETS + 1) * width - now, 0)
end

local allowed = total + cost <= limit
local retry_after, left = 0, total
if not allowed then
  for place = BUCKETS, 0, -1 do
    if counts[place] then
      left = left - counts[place]
      retry_after = leaves_after(place)
      if left + cost <= limit then
        break
      end
    end
  end
elseif ARGV[4] == '1' and cost > 0 then
  counts[0] = (counts[0] or 0) + cost
  total = total + cost
  local parts = { struct.pack('>I8I8', width, newest) }
  for place = 0, BUCKETS do
    parts[place + 2] = struct.pack('>I4', counts[place] or 0)
  end
  redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.ceil(leaves_after(0) / 1000))
end

local reset_after = 0
for place = 0, BUCKETS do
  if counts[place] then
    reset_after = leaves_after(place)
    break
  end
end
return { allowed and 1 or 0, math.max(limit - total, 0), retry_after, reset_after }
