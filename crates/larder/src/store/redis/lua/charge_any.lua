-- The whole rule, for records and requests of every kind: what charge.lua has not answered, after limit.lua.
local take, ahead, patience, least = ALL, 0, 0, 1
if ARGV[2] then
  take, ahead, patience, least = struct.unpack('>BI7I7I4', ARGV[2])
end
local kinds, limits, widths = terms_from(5)
local places = record and locate(kinds, widths)
local translated = record and not places
if not places then
  convert(kinds, limits, widths, false)
  places = locate(kinds, widths)
end

-- the sum of a ring's counts from one slot on, where `many` follow
local function sum(term, slot, many)
  local kind = string.byte(record, places[term])
  local size, slots, counts = kinds[term], slots_of(kind), places[term] + 11
  local total, form = 0, size == 2 and '>I2' or '>I4'
  while many > 0 do
    local stretch = math.min(many, slots - slot)
    local at, stop = counts + slot * size, counts + (slot + stretch) * size
    at = string.find(record, '%Z', at)
    while at and at < stop do
      local first = at - (at - counts) % size
      total = total + struct.unpack(form, record, first)
      at = string.find(record, '%Z', first + size)
    end
    slot, many = 0, many - stretch
  end
  return total
end

-- per term: what counts now, and how many buckets or entries count no longer
local totals, gone = {}, {}
local function count()
  for term, size in ipairs(kinds) do
    local at, width = places[term], widths[term]
    if size <= 4 then
      local old, current = math.floor(latest / width), math.floor(now / width)
      local slots = slots_of(string.byte(record, at))
      gone[term] = math.min(current - old, slots)
      totals[term] = struct.unpack('>I4', record, at + 7)
      if gone[term] > 0 and totals[term] > 0 then
        totals[term] = totals[term] - sum(term, (old - BUCKETS) % slots, gone[term])
      end
    elseif size == 6 then
      local entries = struct.unpack('>I4', record, at + 7)
      gone[term] = 0
      if entries > 0 and whole(struct.unpack('>I6', record, at + 11)) + width <= now then
        gone[term] = entries_until(string.sub(record, at + 11, at + 10 + entries * 6), entries, now - width)
      end
      totals[term] = entries - gone[term]
    else
      totals[term] = math.max(math.ceil((struct.unpack('>I7', record, at + 7) - now) / width), 0)
    end
  end
end
count()

-- a ring's live counts, oldest first
local function unrolled(term)
  local at, size, width = places[term], kinds[term], widths[term]
  local slots = slots_of(string.byte(record, at))
  local from, first = at + 11, (math.floor(now / width) - BUCKETS) % slots
  local stop = from + slots * size - 1
  local counts = string.sub(record, from + first * size, stop) .. string.sub(record, from, from + first * size - 1)
  return string.sub(counts, 1, (slots - gone[term]) * size)
end

-- when `wanted` fit
local function ready(term, wanted)
  local at, size, width, limit = places[term], kinds[term], widths[term], limits[term]
  if size <= 4 then
    local counts, left, form = unrolled(term), totals[term], size == 2 and '>I2' or '>I4'
    local index, found, free = math.floor(now / width) - BUCKETS, string.find(counts, '%Z'), now
    while found do
      local slot = math.floor((found - 1) / size)
      left = left - struct.unpack(form, counts, slot * size + 1)
      free = (index + slot + BUCKETS + 1) * width
      if left + wanted <= limit then
        break
      end
      found = string.find(counts, '%Z', (slot + 1) * size + 1)
    end
    return free
  elseif size == 6 then
    local entry = gone[term] + totals[term] + wanted - limit - 1
    return whole(struct.unpack('>I6', record, at + 11 + entry * 6)) + width
  end
  return math.max(struct.unpack('>I7', record, at + 7), now) + (wanted - limit) * width
end

-- when nothing counts any more
local function ends(term)
  local at, size, width = places[term], kinds[term], widths[term]
  if totals[term] == 0 then
    return clock
  elseif size <= 4 then
    if string.byte(record, at) < AHEAD then
      return (math.floor(latest / width) + BUCKETS + 1) * width
    end
    local counts = unrolled(term)
    local last = string.find(string.reverse(counts), '%Z')
    local slot = math.floor((#counts - last) / size)
    return (math.floor(now / width) + slot + 1) * width
  elseif size == 6 then
    return whole(struct.unpack('>I6', record, at + 5 + 6 * (gone[term] + totals[term]))) + width
  end
  return struct.unpack('>I7', record, at + 7)
end

local room, binding = math.huge, 1
for term, limit in ipairs(limits) do
  if limit - totals[term] < room then
    room, binding = limit - totals[term], term
  end
end
local granted, wanted = cost, cost
if take == ALL or take == LOOK then
  granted = room >= cost and cost or 0
else
  wanted = take == HALF and least or 1
  granted = take == HALF and math.max(math.ceil(room / 2), least) or room
  granted = room >= wanted and math.min(cost, granted) or 0
end

local when, wait = now + ahead, 0
if granted == 0 then
  local last = 0
  for term, limit in ipairs(limits) do
    if totals[term] + wanted > limit then
      local free = ready(term, wanted)
      if free > last then
        last, binding = free, term
      end
    end
  end
  wait = math.max(last - clock, 0)
  -- Nor is a turn booked where that would make a record for good that has lost some of what was charged.
  if take == ALL and wait <= patience and not cut then
    granted, when = cost, math.max(last, now)
    -- Who waits counts the time by a clock that may be slow: the turn is used a thousandth later, and charged two later.
    when = when + math.floor((when - now) / 500)
    for term, size in ipairs(kinds) do
      local width = widths[term]
      if (size <= 4 and math.floor(when / width) > math.floor(now / width) + BUCKETS + 1)
        or (size == 6 and last > now + width) then
        granted = 0
      end
    end
  end
end

local all_back = clock
if take ~= LOOK and granted > 0 then
  for term, size in ipairs(kinds) do
    local later = size <= 4 and math.floor(when / widths[term]) > math.floor(now / widths[term])
    if later and string.byte(record, places[term]) < AHEAD then
      convert(kinds, limits, widths, true)
      places = locate(kinds, widths)
      count()
      break
    end
  end
  local parts = { struct.pack('>BI7I7', #kinds, now, born) }
  for term, size in ipairs(kinds) do
    local at, width, total = places[term], widths[term], totals[term] + granted
    local track
    if size <= 4 then
      local kind = string.byte(record, at)
      local slots = slots_of(kind)
      local counts = string.sub(record, at + 11, at + 10 + slots * size)
      local slot, many = (math.floor(latest / width) - BUCKETS) % slots, gone[term]
      while many > 0 do
        local stretch = math.min(many, slots - slot)
        counts = string.sub(counts, 1, slot * size) .. string.rep('\0', stretch * size)
          .. string.sub(counts, (slot + stretch) * size + 1)
        slot, many = 0, many - stretch
      end
      counts = add(counts, math.floor(when / width) % slots, size, granted)
      track = struct.pack('>BI6I4', kind, width, total) .. counts
    elseif size == 6 then
      local entries = string.sub(record, at + 11 + gone[term] * 6, at + 10 + (gone[term] + totals[term]) * 6)
      local stamps = string.rep(struct.pack('>I6', when % EPOCH), granted)
      local before = totals[term]
      if before > 0 and whole(struct.unpack('>I6', entries, before * 6 - 5)) > when then
        before = entries_until(entries, before, when)
      end
      track = struct.pack('>BI6I4', 6, width, total)
        .. string.sub(entries, 1, before * 6) .. stamps .. string.sub(entries, before * 6 + 1)
    else
      local arrival = math.max(struct.unpack('>I7', record, at + 7), when) + granted * width
      track = struct.pack('>BI6I7', size, width, arrival)
    end
    parts[term + 1] = track
  end
  record, latest = table.concat(parts), now
  places = locate(kinds, widths)
  room = math.huge
  for term, limit in ipairs(limits) do
    totals[term], gone[term] = totals[term] + granted, 0
    if wait == 0 and limit - totals[term] < room then
      room, binding = limit - totals[term], term
    end
    all_back = math.max(all_back, ends(term))
  end
  redis.call('SET', KEYS[1], record, 'PX', math.ceil((all_back - clock) / 1000) + 1)
else
  for term in ipairs(kinds) do
    all_back = math.max(all_back, ends(term))
  end
  if translated and take ~= LOOK then
    -- It was told how long this is refused. By the quotas that charged the record it may end sooner.
    local rest = math.ceil((all_back - clock) / 1000) + 1
    if redis.call('PTTL', KEYS[1]) < rest then
      redis.call('PEXPIRE', KEYS[1], rest)
    end
  end
end
local remains = math.max(limits[binding] - totals[binding], 0)
if granted == 0 then
  when, born = 0, 0
end
return struct.pack('>I4BI4I7I7I7I7', granted, binding - 1, remains, wait, all_back - clock, when, born)
