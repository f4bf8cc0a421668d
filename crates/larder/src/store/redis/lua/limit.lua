-- What charge.lua and refund.lua share: how a record is read and converted. The rule is explained in
-- store/memory/limits/mod.rs. It is put after what reads the time and the record, and knows `clock`, `record` and `ask`.
-- A record is the number of its tracks (1 byte), the time of its latest charge (7), and the tracks, one a quota: their
-- kind (1) and width (6, microseconds), then
--   kind 2 or 4, buckets: their sum (4) and a ring of 61 counts of 2 or 4 bytes, bucket i at i modulo 61; with 64 added,
--     122 of them, for charges that lie up to 61 buckets ahead
--   kind 6, a log: how many (4) and the time of each permit (6), oldest first, modulo 2^48; the width is the window
--   kind 8, GCRA: the theoretical arrival time (7); the width is the interval between two permits
-- All numbers are big-endian.
local BUCKETS, AHEAD, EPOCH = 60, 64, 281474976710656
local latest = record and struct.unpack('>I7', record, 2) or clock
local now = clock > latest and clock or latest

-- The terms of a request, from this place on: how many (1), and of each its kind (1), width (6) and limit (4).
local function terms_from(place)
  local kinds, limits, widths = {}, {}, {}
  for term = 1, string.byte(ask, place) do
    kinds[term], widths[term], limits[term] = struct.unpack('>BI6I4', ask, place + 11 * term - 10)
  end
  return kinds, limits, widths
end

-- The time that a log's entry stands for, which is less than four years from now.
local function whole(short)
  local age = (now - short) % EPOCH
  return age < EPOCH / 2 and now - age or now - age + EPOCH
end

local function slots_of(kind)
  return kind >= AHEAD and 2 * BUCKETS + 2 or BUCKETS + 1
end

local function add(counts, slot, size, delta)
  local form, from = size == 2 and '>I2' or '>I4', slot * size
  local count = struct.unpack(form, counts, from + 1) + delta
  return string.sub(counts, 1, from) .. struct.pack(form, count) .. string.sub(counts, from + size + 1)
end

-- How many of a log's entries are no later than `limit`.
local function entries_until(log, count, limit)
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if whole(struct.unpack('>I6', log, middle * 6 + 1)) <= limit then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- The tracks as the record has them: where each begins and ends, and for the changing of quotas what it counts, each at
-- the latest time at which it can have been.
local function tracks_with_events()
  local tracks, at = {}, 9
  for number = 1, string.byte(record, 1) do
    local kind, width = struct.unpack('>BI6', record, at)
    local size, events, window, first = kind % AHEAD, {}, width, at
    if size <= 4 then
      local slots, current = slots_of(kind), math.floor(latest / width)
      for index = current - BUCKETS, current - BUCKETS + slots - 1 do
        local count = struct.unpack(size == 2 and '>I2' or '>I4', record, at + 11 + index % slots * size)
        if count > 0 then
          events[#events + 1] = { index == current and latest or (index + 1) * width - 1, count }
        end
      end
      window = width * BUCKETS
      at = at + 11 + slots * size
    elseif size == 6 then
      local count = struct.unpack('>I4', record, at + 7)
      for entry = 0, count - 1 do
        events[entry + 1] = { whole(struct.unpack('>I6', record, at + 11 + entry * 6)), 1 }
      end
      at = at + 11 + count * 6
    else
      local debt = math.ceil((struct.unpack('>I7', record, at + 7) - now) / width)
      if debt > 0 then
        events[1] = { now, debt }
      end
      window = 0
      at = at + 14
    end
    tracks[number] = { size = size, width = width, window = window, events = events, first = first, last = at - 1 }
  end
  return tracks
end

local function buckets_from(size, width, events, ahead)
  local current, last = math.floor(now / width), math.floor(now / width)
  for _, event in ipairs(events) do
    last = math.max(last, math.floor(event[1] / width))
  end
  local kind = (ahead or last > current) and size + AHEAD or size
  local slots, total, most = slots_of(kind), 0, size == 2 and 65535 or 4294967295
  local counts = string.rep('\0', slots * size)
  for _, event in ipairs(events) do
    local index = math.min(math.floor(event[1] / width), current + BUCKETS + 1)
    if index >= current - BUCKETS then
      local slot = index % slots
      local room = most - struct.unpack(size == 2 and '>I2' or '>I4', counts, slot * size + 1)
      local count = math.min(event[2], room)
      counts = add(counts, slot, size, count)
      total = total + count
    end
  end
  return struct.pack('>BI6I4', kind, width, math.min(total, 4294967295)) .. counts
end

local function log_from(window, events, limit)
  local entries, count = {}, 0
  for place = #events, 1, -1 do
    local event = events[place]
    if event[1] + window > now then
      for _ = 1, math.min(event[2], limit - count) do
        count = count + 1
        table.insert(entries, 1, struct.pack('>I6', event[1] % EPOCH))
      end
    end
  end
  return struct.pack('>BI6I4', 6, window, count) .. table.concat(entries)
end

-- A record for these terms that counts what the old one does. A track of the same kind and width is taken as it is; else
-- the shortest of those that look back at least as far, else the one that looks back furthest.
local function convert(kinds, limits, widths, ahead)
  local tracks, parts = record and tracks_with_events() or {}, {}
  for term, size in ipairs(kinds) do
    local width, source = widths[term], nil
    local window = size <= 4 and width * BUCKETS or size == 6 and width or width * limits[term]
    for _, track in ipairs(tracks) do
      if track.size == size and track.width == width then
        source = track
        break
      end
      local far, source_far = track.window >= window, source and source.window >= window
      if not source or (far and (not source_far or track.window < source.window))
        or (not far and not source_far and track.window > source.window) then
        source = track
      end
    end
    local events = source and source.events or {}
    if size <= 4 then
      parts[term] = buckets_from(size, width, events, ahead)
    elseif size == 6 then
      parts[term] = log_from(width, events, limits[term])
    elseif source and source.size == size and source.width == width then
      parts[term] = string.sub(record, source.first, source.last)
    else
      local count = 0
      for _, event in ipairs(events) do
        count = count + (event[1] + window > now and event[2] or 0)
      end
      parts[term] = struct.pack('>BI6I7', size, width, now + math.min(count, limits[term]) * width)
    end
  end
  record = struct.pack('>BI7', #kinds, now) .. table.concat(parts)
  latest = now
end

-- Where each term's track begins, or nothing where the record holds other tracks than these.
local function locate(kinds, widths)
  if string.byte(record, 1) ~= #kinds then
    return nil
  end
  local places, at = {}, 9
  for term, size in ipairs(kinds) do
    local kind, width = struct.unpack('>BI6', record, at)
    if kind % AHEAD ~= size or width ~= widths[term] then
      return nil
    end
    places[term] = at
    if size <= 4 then
      at = at + 11 + slots_of(kind) * size
    elseif size == 6 then
      at = at + 11 + 6 * struct.unpack('>I4', record, at + 7)
    else
      at = at + 14
    end
  end
  return places
end
