-- The part that charge, refund and override share: how a record is read, converted and written.
-- store/memory/limits/mod.rs explains the rule. What includes this file has `ask`, `clock` and `record` as read.lua has
-- them. `record` is then without what is in front of it (nil if nothing is left), and `now` is the clock, or the
-- record's own time if that is later.
--
-- A record is, with all numbers big-endian:
--   - the number of its tracks (1), the time of its latest charge (7) and the time of its first charge or of its
--     latest conversion (7); by the latter a refund recognises the record that was charged;
--   - a head for each track, which is one for each quota (14 each): the unit, kind * 2^45 + width in
--     microseconds (6), and two numbers (4 and 4) that depend on the kind;
--   - a body for each track, in the same order.
-- Kinds:
--   - 0, buckets: their sum (4), the count of the current bucket, which is that of the latest charge (2), and
--     how many buckets ahead of it (1) and before it (1) have a count in the body. The body has counts of 2
--     bytes: first those before the current one, oldest first and starting with one that is not zero, then
--     those ahead, ending with one that is not zero.
--   - 1, buckets: their sum (4) and the count of the current one (4). The body begins with how many buckets
--     are ahead (1) and before (1), and has counts of 4 bytes.
--   - 3, GCRA: the theoretical arrival time (8), and no body. The width is the interval between two permits.
--   - 4, 5 and 6, a log: how many permits (4) and 0 (4). The body has the time of each permit, oldest first:
--     its low 4, 5 or 6 bytes. The width is the window. The size is the smallest one that distinguishes the
--     times within a window, or 6 if a permit lies in the future.
local KIND, BUCKETS, MOST = 35184372088832, 60, { [0] = 65535, 4294967295 }
-- A record whose key has an override or was blocked begins with: 255 (1), the length of this part (2), the
-- end of the override (7), how many milliseconds a record lives under it (7), the number of its specs (1);
-- the end of the block (7), how many blocks there were (1), for how many seconds after a block's end the next
-- one is a further one (4); and for each spec its unit (6), its limit (4) and the program's label (15). What
-- has ended is dropped here.
local over, over_lives, over_specs = 0, 0, ''
local blocked, level, quiet = 0, 0, 0
-- Whether the next charge is to set the time to live, whichever quotas it has: see override.lua. An override that ended
-- at time 1 stands for it in the record.
local marked = false
if record and string.byte(record, 1) == 255 then
  local length, _
  length, over, over_lives, _, blocked, level, quiet = struct.unpack('>I2I7I7BI7BI4', record, 2)
  if over > clock then
    over_specs = string.sub(record, 31, length)
  else
    marked, over, over_lives = over == 1, 0, 0
  end
  if clock >= blocked + quiet * 1000000 then
    blocked, level, quiet = 0, 0, 0
  end
  record = string.sub(record, length + 1)
  if record == '' then
    record = nil
  end
end
local function before_record()
  if over == 0 and level == 0 and not marked then
    return ''
  end
  local many, until_then = #over_specs / 25, over == 0 and marked and 1 or over
  local length = 30 + #over_specs
  local head = struct.pack('>BI2I7I7BI7BI4', 255, length, until_then, over_lives, many, blocked, level, quiet)
  return head .. over_specs
end
local latest = record and struct.unpack('>I7', record, 2) or clock
local created_at = record and struct.unpack('>I7', record, 9) or clock
local now = clock > latest and clock or latest

-- The specs of a request, which begin at `place`: their number (1), and for each its unit (6) and its limit
-- (4). Kinds are 0, 1, 3, and 4 for a log of any entry size.
local function specs_from(place)
  local specs = {}
  for spec = 1, string.byte(ask, place) do
    local unit, limit = struct.unpack('>I6I4', ask, place + 10 * spec - 9)
    local width = unit % KIND
    specs[spec] = { kind = math.min(math.floor(unit / KIND), 4), width = width, limit = limit }
  end
  return specs
end

-- The specs that hold for the key: those of its override, or else those of the request.
local function specs_at(place)
  if over == 0 then
    return specs_from(place)
  end
  local specs = {}
  for from = 1, #over_specs, 25 do
    local unit, limit = struct.unpack('>I6I4', over_specs, from)
    local kind, label = math.min(math.floor(unit / KIND), 4), string.sub(over_specs, from + 10, from + 24)
    specs[#specs + 1] = { kind = kind, width = unit % KIND, limit = limit, label = label }
  end
  return specs
end

-- The time of a log's nth entry. At the time `known` each entry was within the window, or in the future and 6
-- bytes long.
local function entry(track, n)
  local size, known = track.size, track.known
  local age = (known - struct.unpack('>I' .. size, track.log, (n - 1) * size + 1)) % 256 ^ size
  return (size == 6 and age >= 2 ^ 47) and known - age + 2 ^ 48 or known - age
end

local function stamp(size, when, many)
  return string.rep(struct.pack('>I' .. size, when % 256 ^ size), many)
end

-- Returns how many of a log's entries are at or before `limit`.
local function entries_until(track, limit)
  local low, high = 0, track.total
  while low < high do
    local middle = math.floor((low + high) / 2)
    if entry(track, middle + 1) <= limit then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

-- Rewrites a log's entries with `size` bytes each.
local function resize(track, size)
  if track.size ~= size then
    local entries = {}
    for n = 1, track.total do
      entries[n] = stamp(size, entry(track, n), 1)
    end
    track.log, track.size = table.concat(entries), size
  end
end

local function size_of(window)
  return window < 2 ^ 32 and 4 or window < 2 ^ 40 and 5 or 6
end

-- Reads the tracks of the record. `counts` of buckets are consecutive, and `first` is the number of the first
-- bucket.
local function tracks_of()
  local tracks, many = {}, string.byte(record, 1)
  local at = 16 + 14 * many
  for number = 1, many do
    local unit, total, rest = struct.unpack('>I6I4I4', record, 2 + 14 * number)
    local kind, width = math.floor(unit / KIND), unit % KIND
    local track = { kind = math.min(kind, 4), width = width, total = total }
    if kind <= 1 then
      local lengths, size, counts = rest % 65536, 2, {}
      if kind == 1 then
        lengths, size, at = struct.unpack('>I2', record, at), 4, at + 2
      end
      local older = lengths % 256
      local stop = at + (older + (lengths - older) / 256) * size
      local bytes = { string.byte(record, at, stop - 1) }
      for place = 1, #bytes, size do
        local count = bytes[place] * 256 + bytes[place + 1]
        counts[#counts + 1] = size == 2 and count or count * 65536 + bytes[place + 2] * 256 + bytes[place + 3]
      end
      table.insert(counts, older + 1, kind == 0 and math.floor(rest / 65536) or rest)
      track.counts, track.first, at = counts, math.floor(latest / width) - older, stop
    elseif kind == 3 then
      track.arrival = total * 2 ^ 32 + rest
    else
      track.size, track.known = kind, latest
      track.log, at = string.sub(record, at, at + kind * total - 1), at + kind * total
    end
    tracks[number] = track
  end
  return tracks
end

-- For a conversion: what a track counts, as pairs of a time and a count. Each time is the latest at which the
-- charge can count. In the current bucket that is after the latest charge: a batch is charged ahead, here as far as
-- the new window is long. The last permit of a pace is used no later than one interval before the arrival time.
local function events_of(track, window)
  local events, width = {}, track.width
  if track.counts then
    local current = math.floor(latest / width)
    for place, count in ipairs(track.counts) do
      local index = track.first + place - 1
      local last = (index + 1) * width - 1
      if count > 0 and index >= current - BUCKETS then
        events[#events + 1] = { index == current and math.min(last, latest + window) or last, count }
      end
    end
    return events
  elseif track.log then
    for n = 1, track.total do
      events[n] = { entry(track, n), 1 }
    end
    return events
  end
  local debt = math.ceil((track.arrival - now) / width)
  return debt > 0 and { { math.max(now, track.arrival - width), debt } } or events
end

-- Returns when nothing of a track counts any more.
local function ends(track)
  if track.total == 0 then
    return clock
  elseif track.counts then
    local last = #track.counts
    while track.counts[last] == 0 do
      last = last - 1
    end
    return (track.first + last + BUCKETS) * track.width
  elseif track.log then
    return entry(track, track.total) + track.width
  end
  return track.arrival
end

-- Adds a count to its bucket.
local function put(track, index, count)
  local counts = track.counts
  if #counts == 0 then
    track.first = index
  end
  for place = #counts + 1, index - track.first + 1 do
    counts[place] = 0
  end
  for _ = index, track.first - 1 do
    table.insert(counts, 1, 0)
    track.first = track.first - 1
  end
  counts[index - track.first + 1] = counts[index - track.first + 1] + count
  track.total = track.total + count
end

-- Whether a conversion dropped something that still counts.
local cut = false

local function buckets_from(spec, events)
  local track = { kind = spec.kind, width = spec.width, counts = {}, first = 0, total = 0 }
  local current = math.floor(now / spec.width)
  for _, event in ipairs(events) do
    local index = math.min(math.floor(event[1] / spec.width), current + BUCKETS + 1)
    if index >= current - BUCKETS then
      local room = MOST[spec.kind] - (track.counts[index - track.first + 1] or 0)
      cut = cut or event[2] > room
      put(track, index, math.min(event[2], room))
    end
  end
  return track
end

local function log_from(spec, events)
  -- The newest entries are kept, so they are collected first and put in order at the end.
  local entries, count = {}, 0
  local size = #events > 0 and events[#events][1] > now and 6 or size_of(spec.width)
  for place = #events, 1, -1 do
    local time, many = events[place][1], events[place][2]
    if time + spec.width > now then
      local kept = math.min(many, spec.limit - count)
      cut = cut or kept < many
      if kept > 0 then
        entries[#entries + 1] = stamp(size, time, kept)
        count = count + kept
      end
    end
  end
  local last = #entries
  for place = 1, math.floor(last / 2) do
    entries[place], entries[last + 1 - place] = entries[last + 1 - place], entries[place]
  end
  return { kind = 4, width = spec.width, size = size, total = count, log = table.concat(entries), known = now }
end

local function counts_by(track, spec)
  return track.kind == spec.kind and track.width == spec.width
end

-- Returns the tracks for these specs, and whether they are the record's own. A spec without a track of its
-- own counts what the record's tracks have: of a track of the same kind and width, or else of the shortest
-- that looks back at least as far, or else of the one that looks back furthest.
local function tracks_for(specs)
  local old, same = record and tracks_of() or {}, true
  for place, spec in ipairs(specs) do
    same = same and old[place] and counts_by(old[place], spec)
  end
  if record and same and #old == #specs then
    return old, true
  end
  local tracks = {}
  for place, spec in ipairs(specs) do
    local width, source, reach = spec.width, nil, nil
    local window = spec.kind <= 1 and width * BUCKETS or spec.kind == 4 and width or width * spec.limit
    for _, track in ipairs(old) do
      if counts_by(track, spec) then
        source = track
        break
      end
      local back = track.counts and track.width * BUCKETS or track.log and track.width or 0
      local far, source_far = back >= window, source and reach >= window
      if not source or (far and (not source_far or back < reach)) or (not far and not source_far and back > reach) then
        source, reach = track, back
      end
    end
    local events = source and events_of(source, window) or {}
    if spec.kind <= 1 then
      tracks[place] = buckets_from(spec, events)
    elseif source and counts_by(source, spec) then
      -- A copy: what this spec no longer counts is dropped from it, and another spec may count by the source.
      tracks[place] = {}
      for part, value in pairs(source) do
        tracks[place][part] = value
      end
    elseif spec.kind == 4 then
      tracks[place] = log_from(spec, events)
    else
      local count = 0
      for _, event in ipairs(events) do
        count = count + (event[1] + window > now and event[2] or 0)
      end
      cut = cut or count > spec.limit
      tracks[place] = { kind = 3, width = width, arrival = now + math.min(count, spec.limit) * width }
    end
    -- The record is converted again for each request until it is written: see fits_at.
    if source and not counts_by(source, spec) then
      tracks[place].source = source
    end
  end
  return tracks, false
end

-- Returns the counts of the buckets `from` to `to` as bytes of a body.
local function body_of(track, from, to)
  local bytes = {}
  for index = from, to do
    local count = track.counts[index - track.first + 1] or 0
    if track.kind == 1 then
      bytes[#bytes + 1], bytes[#bytes + 2] = math.floor(count / 16777216), math.floor(count / 65536) % 256
    end
    bytes[#bytes + 1], bytes[#bytes + 2] = math.floor(count / 256) % 256, count % 256
  end
  return string.char(unpack(bytes))
end

-- Returns the record of these tracks, whose latest charge was at `latest`.
local function written(tracks)
  local heads, bodies = { struct.pack('>BI7I7', #tracks, latest, created_at) }, {}
  for number, track in ipairs(tracks) do
    local kind, width, total, rest, body = track.kind, track.width, track.total, 0, ''
    if track.counts then
      local counts, current = track.counts, math.floor(latest / width)
      local first, last = track.first, track.first + #counts - 1
      while first <= last and counts[last - track.first + 1] == 0 do
        last = last - 1
      end
      while first <= last and counts[first - track.first + 1] == 0 do
        first = first + 1
      end
      if first > last then
        first, last = current, current
      end
      local older, ahead = math.max(current - first, 0), math.max(last - current, 0)
      rest = counts[current - track.first + 1] or 0
      body = body_of(track, current - older, current - 1) .. body_of(track, current + 1, current + ahead)
      if kind == 0 then
        rest = rest * 65536 + ahead * 256 + older
      else
        body = struct.pack('>BB', ahead, older) .. body
      end
    elseif track.log then
      local ahead = total > 0 and entry(track, total) > latest
      resize(track, ahead and 6 or size_of(width))
      kind, body = track.size, track.log
    else
      total, rest = math.floor(track.arrival / 2 ^ 32), track.arrival % 2 ^ 32
    end
    heads[number + 1], bodies[number] = struct.pack('>I6I4I4', kind * KIND + width, total, rest), body
  end
  return table.concat(heads) .. table.concat(bodies)
end
