-- Decides what charge.lua has not: the whole rule, for records and requests of every kind. It follows charge.lua in
-- one script, and uses its locals.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the request, all numbers big-endian: the cost (4), the number of specs (1), for each spec its unit (6) and
--   its limit (4), and in decimal digits how many milliseconds the record is to live. 2 the options, left out to
--   charge all or nothing now: what to take (1), the delay in microseconds (7), max_wait in microseconds (7), the
--   least that HALF and TURNS take (4); then, or alone, the penalty of a refusal: the microseconds of a block (7), its
--   factor (1), the longest block in microseconds (7)
-- Reply: the permits granted (4), the spec that decided, from 0 (1), what is left of that spec (4), microseconds until
--   all permits are back (7). Then for a refusal the microseconds to wait (7); for a grant the time that was charged
--   (7), the record's creation time (7) and, if a turn was booked, the microseconds until that turn (7). If an override
--   decided, the program's label of the deciding spec follows (15)
-- include limit/limit.lua: BUCKETS, MOST, over, over_lives, blocked, level, quiet, marked, before_record,
--   latest, created_at, now, specs_from, specs_at, entry, stamp, entries_until, resize, events_of, ends, put, cut,
--   tracks_for, written
local ALL, HALF, PEEK, TURNS, DEBT = 1, 3, 4, 5, 6
local mode, delay, max_wait, least = ALL, 0, 0, 1
local more = ARGV[2] or ''
if #more ~= 15 and more ~= '' then
  mode, delay, max_wait, least = struct.unpack('>BI7I7I4', more)
end
-- The delay of a PEEK is how much later the request is repeated.
local later = mode == PEEK and delay or 0
if mode == PEEK then
  delay = 0
end
local specs = specs_at(5)
-- A batch of permits is charged after a delay, when its span ends. The override may have a window shorter
-- than that, or pace by GCRA. Then only what is used at once is taken, and charged now.
for _, spec in ipairs(delay > 0 and specs or {}) do
  if delay > (spec.kind <= 1 and spec.width * BUCKETS or spec.kind == 4 and spec.width or 0) then
    delay, cost = 0, mode == HALF and least or cost
  end
end
local tracks, same = tracks_for(specs)
local translated = record and not same
-- A conversion makes another record: a refund of what the tracks before it counted would take from other callers, too.
-- It does not if each charge stays in its place: the quotas are as many, and each counts as before, except that its
-- buckets can hold more or less.
if translated then
  local in_place = string.byte(record, 1) == #specs and not cut
  for _, track in ipairs(tracks) do
    local source = track.source
    in_place = in_place and (not source or track.counts and source.counts and source.width == track.width)
  end
  if not in_place then
    created_at = math.max(now, created_at + 1)
  end
end

-- Drops what no longer counts, and returns what counts now.
local function total_of(track)
  if track.counts then
    local oldest, counts = math.floor(now / track.width) - BUCKETS, {}
    for place, count in ipairs(track.counts) do
      if track.first + place - 1 >= oldest then
        counts[#counts + 1] = count
      else
        track.total = track.total - count
      end
    end
    track.first, track.counts = math.max(track.first, oldest), counts
  elseif track.log then
    local gone = 0
    if track.total > 0 and entry(track, 1) + track.width <= now then
      gone = entries_until(track, now - track.width)
    end
    track.log, track.total, track.known = string.sub(track.log, gone * track.size + 1), track.total - gone, now
  else
    track.total = math.max(math.ceil((track.arrival - now) / track.width), 0)
  end
  return track.total
end

-- Returns when `wanted` permits fit.
local function ready(track, limit, wanted)
  local width = track.width
  if track.counts then
    local left, free = track.total, now
    for place, count in ipairs(track.counts) do
      if count > 0 then
        left, free = left - count, (track.first + place + BUCKETS) * width
        if left + wanted <= limit then
          break
        end
      end
    end
    return free
  elseif track.log then
    return entry(track, track.total + wanted - limit) + width
  end
  return math.max(track.arrival, now) + (wanted - limit) * width
end

-- Returns what is free of a track at a future time.
local function room_at(track, limit, when)
  local width = track.width
  if track.counts then
    local oldest = math.floor(when / width) - BUCKETS
    for place, count in ipairs(track.counts) do
      if track.first + place - 1 >= oldest then
        limit = limit - count
      end
    end
    return limit
  elseif track.log then
    return limit - track.total + entries_until(track, when - width)
  end
  return limit - math.max(math.ceil((track.arrival - when) / width), 0)
end

local function charge(track, when, many)
  if track.counts then
    put(track, math.floor(when / track.width), many)
  elseif track.log then
    if when > now then
      resize(track, 6)
    end
    local before, size = track.total, track.size
    if before > 0 and entry(track, before) > when then
      before = entries_until(track, when)
    end
    track.log = string.sub(track.log, 1, before * size) .. stamp(size, when, many)
      .. string.sub(track.log, before * size + 1)
    track.total = track.total + many
  else
    track.arrival = math.max(track.arrival, when) + many * track.width
    track.total = math.max(math.ceil((track.arrival - now) / track.width), 0)
  end
end

-- Returns when `most` permits fit, or all of a limit that is lower, if nothing is charged until then. A record of other
-- quotas is converted at that future time, not now: its paced debt is smaller by then, and the spec's own pace does not
-- apply to it yet.
local function fits_at(specs, tracks, most)
  local last = 0
  for place, spec in ipairs(specs) do
    local track, wanted = tracks[place], math.min(most, spec.limit)
    local source, width = track.source, spec.width
    if total_of(track) + wanted > spec.limit then
      local free = now
      if source and source.arrival then
        free = source.arrival - (spec.limit - wanted) * source.width
      elseif source and spec.kind <= 3 then
        -- By the events, not by the buckets: a bucket ahead is as near as the body reaches, and would move with `now`.
        local window = width * (spec.kind == 3 and spec.limit or BUCKETS)
        local left, events = 0, events_of(source, window)
        for _, event in ipairs(events) do
          event[1] = spec.kind == 3 and event[1] + window
            or (math.floor(event[1] / width) + BUCKETS + 1) * width
          left = left + (event[1] > now and event[2] or 0)
        end
        for _, event in ipairs(events) do
          if event[1] > now and left + wanted > spec.limit then
            left, free = left - event[2], event[1]
          end
        end
      else
        free = ready(track, spec.limit, wanted)
      end
      last = math.max(last, free)
    end
  end
  return last
end

-- How much fits: `room` is what is left of the spec that has the least left.
local room, binding = math.huge, 1
for place, spec in ipairs(specs) do
  local left = spec.limit - total_of(tracks[place])
  if left < room then
    room, binding = left, place
  end
end
local granted, wanted = cost, cost
if mode == ALL or mode == PEEK then
  granted = room >= cost and cost or 0
elseif mode == DEBT then
  -- These permits were used already: charge up to twice the limit, and no more than a count can hold. Charge none on a
  -- record whose conversion dropped something: writing it would make the loss permanent.
  wanted, granted = 1, cut and 0 or cost
  for place, spec in ipairs(specs) do
    local track = tracks[place]
    granted = math.min(granted, math.max(2 * spec.limit - track.total, 0))
    if track.counts then
      local count = track.counts[math.floor(now / track.width) - track.first + 1] or 0
      granted = math.min(granted, MOST[track.kind] - count)
    end
  end
else
  wanted = (mode == HALF or mode == TURNS) and least or 1
  granted = mode == HALF and math.max(math.ceil(room / 2), least) or room
  granted = room >= wanted and math.min(cost, granted) or 0
end

-- A block refuses everything but a debt, which was used already.
local held = blocked > clock and mode ~= DEBT
if held then
  granted = 0
end

-- `never`: an override has a limit below the cost. `began`: a block begins now.
local when, wait, never, began = now + delay, 0, false, false
if granted == 0 then
  local last = 0
  for place, spec in ipairs(specs) do
    if tracks[place].total + wanted > spec.limit then
      local free = over
      if wanted > spec.limit then
        never = true
      else
        free = ready(tracks[place], spec.limit, wanted)
      end
      if free > last then
        last, binding = free, place
      end
    end
  end
  if #more % 19 == 15 and last > 0 and not held and not never then
    local first, factor, longest = struct.unpack('>I7BI7', more, #more - 14)
    blocked = now + math.min(first * factor ^ level, longest)
    level, quiet, began = math.min(level + 1, 255), math.ceil(longest / 1000000), true
  end
  if mode ~= DEBT then
    last = math.max(last, blocked)
  end
  wait = math.max(last - clock, 0)
  -- Do not book a turn on a record whose conversion dropped something: writing it would make the loss
  -- permanent.
  if (mode == ALL or mode == TURNS) and wait <= max_wait and not cut and not never then
    granted = cost
    -- A request for TURNS covers all callers that wait together in one process: they get all that is free at
    -- that time.
    for place, spec in ipairs(mode == TURNS and specs or {}) do
      granted = math.max(math.min(granted, room_at(tracks[place], spec.limit, last)), 0)
    end
    -- The waiter measures the wait by a clock that may be slow. So the turn is used 1/1000 of the wait later,
    -- and charged 2/1000 later. The wait counts from the server's clock, also if that has stepped back and is
    -- behind the record's own time.
    when = math.max(last + math.floor(wait / 500), now)
    -- A turn after the end of an override is not the override's: the request's own specs hold then.
    if over > 0 and when >= over then
      granted = 0
    end
    for _, spec in ipairs(specs) do
      local width = spec.width
      if (spec.kind <= 1 and math.floor(when / width) > math.floor(now / width) + BUCKETS + 1)
        or (spec.kind == 4 and last > now + width) then
        granted = 0
      end
    end
  end
  if granted == 0 and (translated or over > 0) then
    local held_until = mode == DEBT and 0 or blocked
    last = math.max(fits_at(specs, tracks, wanted), never and over or 0, held_until)
    -- When the override ends, the request's own specs hold.
    if over > 0 and last >= over then
      local own = specs_from(5)
      last = math.max(fits_at(own, (tracks_for(own)), wanted), over, held_until)
    end
    wait = math.max(last - clock, 0)
  end
end

-- If the request is repeated after the end of an override, its own specs decide.
if later > 0 and over > 0 and over <= clock + later then
  local own = specs_from(5)
  local last = math.max(fits_at(own, (tracks_for(own)), cost), blocked)
  if last > clock + later then
    granted, wait = 0, last - clock
  end
end

-- Charge, and see which spec has the least left.
if granted > 0 and mode ~= PEEK then
  room, latest = math.huge, now
  for place, spec in ipairs(specs) do
    charge(tracks[place], when, granted)
    if wait == 0 and spec.limit - tracks[place].total < room then
      room, binding = spec.limit - tracks[place].total, place
    end
  end
end
local all_back = math.max(clock, blocked)
for _, track in ipairs(tracks) do
  all_back = math.max(all_back, ends(track))
end
local remains = blocked > clock and 0 or math.max(specs[binding].limit - tracks[binding].total, 0)
local remembered = blocked + quiet * 1000000
if granted > 0 and mode ~= PEEK then
  -- The record lives for as long as charge.lua relies on, counted from the record's own time, and until
  -- everything in it has ended. One millisecond more than that, because the rest of the current one is lost
  -- and the time to live counts from before the script.
  local lives = over > 0 and over_lives or string.sub(ask, 6 + 10 * #specs)
  lives = lives + math.ceil((now - clock) / 1000)
  lives = math.max(lives, math.ceil((math.max(all_back, over, remembered) - clock) / 1000) + 1)
  marked = false
  redis.call('SET', KEYS[1], before_record() .. written(tracks), 'PX', string.format('%d', lives))
elseif (translated or began) and mode ~= PEEK then
  if began then
    redis.call('SET', KEYS[1], before_record() .. (record or ''), 'KEEPTTL')
  end
  -- The reply says how long this is refused. By the quotas that charged it the record may expire earlier, so
  -- lengthen its time to live.
  local rest = math.ceil((math.max(all_back, remembered) - clock) / 1000) + 1
  if redis.call('PTTL', KEYS[1]) < rest then
    redis.call('PEXPIRE', KEYS[1], rest)
  end
end
local answer
if granted == 0 then
  answer = struct.pack('>I4BI4I7I7', 0, binding - 1, remains, all_back - clock, wait)
elseif wait == 0 then
  answer = struct.pack('>I4BI4I7I7I7', granted, binding - 1, remains, all_back - clock, when, created_at)
else
  answer = struct.pack('>I4BI4I7I7I7I7', granted, binding - 1, remains, all_back - clock, when, created_at, wait)
end
return answer .. (specs[binding].label or '')
