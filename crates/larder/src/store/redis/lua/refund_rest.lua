-- The second half of refund.lua, after limit.lua.
if not record then
  return 0
end
local permits, when = struct.unpack('>I4I7', ask)
local kinds, _, widths = terms_from(12)
local places = locate(kinds, widths)
if not places then
  return 0
end
local parts, most = { string.sub(record, 1, 8) }, 0
for term, size in ipairs(kinds) do
  local at, width, back = places[term], widths[term], 0
  local stop = places[term + 1] and places[term + 1] - 1 or #record
  local track = string.sub(record, at, stop)
  if size <= 4 then
    local kind, _, total = struct.unpack('>BI6I4', track)
    local slots, index, old = slots_of(kind), math.floor(when / width), math.floor(latest / width)
    if index >= old - BUCKETS and index < old - BUCKETS + slots then
      local slot, counts = index % slots, string.sub(track, 12)
      back = math.min(permits, (struct.unpack(size == 2 and '>I2' or '>I4', counts, slot * size + 1)))
      track = struct.pack('>BI6I4', kind, width, total - back) .. add(counts, slot, size, -back)
    end
  elseif size == 6 then
    local entries, count = string.sub(track, 12), struct.unpack('>I4', track, 8)
    local from, to = entries_until(entries, count, when - 1), entries_until(entries, count, when)
    back = math.min(permits, to - from)
    track = struct.pack('>BI6I4', 6, width, count - back)
      .. string.sub(entries, 1, from * 6) .. string.sub(entries, (from + back) * 6 + 1)
  else
    local arrival = struct.unpack('>I7', track, 8)
    back = math.min(permits, math.max(math.ceil((arrival - now) / width), 0))
    track = struct.pack('>BI6I7', size, width, arrival - back * width)
  end
  parts[term + 1] = track
  most = math.max(most, back)
end
if most > 0 then
  redis.call('SET', KEYS[1], table.concat(parts), 'KEEPTTL')
end
return most
