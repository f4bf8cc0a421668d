-- Charges all quotas of one key together, all or none, or replies what a charge would do.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the request, all numbers big-endian: the cost (4), the number of specs (1), for each spec its unit
--   (6, kind and width as in a record) and its limit (4), and in decimal digits how many milliseconds the
--   record is to live. 2 the options, left out to charge all or nothing now:
--     what to take (1), a ChargeMode: ALL or nothing (1); as much as fits, up to the cost (2); at most HALF of
--     what is left (3); PEEK, which charges nothing (4); TURNS, as much as fits now or at the earliest possible
--     time (5); DEBT, up to twice the limit (6)
--     the delay in microseconds after which the charge counts; with PEEK, after which the request is repeated (7)
--     max_wait, for how many microseconds in the future a turn may be booked (7)
--     the least that HALF and TURNS take (4)
--     then, or alone, the penalty if a refusal blocks the key: for how many microseconds (7), by what factor
--     each further block is longer (1), and the longest block in microseconds (7)
-- Reply: the permits granted (4), the spec that decided, from 0 (1), what is left of that spec (4),
--   microseconds until all permits are back (7). Then for a refusal the microseconds to wait (7); for a grant
--   the time that was charged (7), the record's creation time (7) and, if a turn was booked, the microseconds
--   until that turn (7). If an override decided, the program's label of the deciding spec follows (15)
--
-- The cost of a decision is mostly calls to the server, new functions and new strings. So the usual requests
-- are decided here, in straight code: buckets and logs of the record's own quotas, all or nothing, now.
-- Everything else falls through to charge_any.lua, which has the same rule for every case; tests hold both to
-- it.
local read, pack, floor, sub, call = struct.unpack, struct.pack, math.floor, string.sub, redis.call
-- A unit is kind * KIND + width. Units below NO_BUCKETS count by buckets, those from LOGS on by a log.
local KIND, NO_BUCKETS, LOGS = 35184372088832, 70368744177664, 140737488355328
-- Buckets in a window, and in a sixth of it; ages from AHEAD on are those of entries in the future.
local BUCKETS, SIXTH, AHEAD = 60, 10, 140737488355328
-- The bytes of a record's header and of a head; and how many entries of a log are dropped one by one.
local HEADER, HEAD, MOST_GONE = 15, 14, 20
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = call('GET', KEYS[1])

local cost, specs, unit, limit = read('>I4BI6I4', ask)
local latest, created_at, tracks, found, total, rest = clock, clock, specs, unit, 0, 0
-- What is in front of the record of a key that has an override or was blocked: `base` is its length, `over` and
-- `blocked` are the times at which the override and the block end. The specs are the request's or the override's.
local base, over, blocked = 0, 0, 0
local given, from, step = ask, 6, 10
if record then
  tracks, latest, created_at, found, total, rest = read('>BI7I7I6I4I4', record)
  if tracks == 255 then
    local _, many, level, quiet
    base, over, _, many, blocked, level, quiet = read('>I2I7I7BI7BI4', record, 2)
    -- What has ended is not used here. charge_any.lua removes it, and sets the time to live of a new record.
    if #record > base and (over == 0 or over > clock) and (level == 0 or clock < blocked + quiet * 1000000) then
      tracks, latest, created_at, found, total, rest = read('>BI7I7I6I4I4', record, base + 1)
      if over > 0 then
        given, from, step, specs = record, 31, 25, many
        unit, limit = read('>I6I4', record, 31)
      end
    end
  end
end
local peeks = ARGV[2] and sub(ARGV[2], 1, 8) == '\4\0\0\0\0\0\0\0'
-- A clock that steps back must not open a window again: charge_any.lua uses the record's own time then.
local usual = tracks == specs and latest <= clock and (not ARGV[2] or peeks or #ARGV[2] == 15)

-- A record of two tracks, with the length of each part in bytes:
--
--   base + 1   + 2        + 9          + 16       + 30       + 44
--   +----------+----------+------------+----------+----------+----------+----------+
--   | tracks 1 | latest 7 | created 7  | head 14  | head 14  | body     | body     |
--   +----------+----------+------------+----------+----------+----------+----------+
--
--   A head is the unit (6), the total (4) and the rest (4). The unit says what the total, the rest and the body hold:
--
--   unit              total     rest                                                 body
--   below KIND        sum       current count 2, buckets ahead 1, buckets before 1   counts before current, 2 each
--   below NO_BUCKETS  sum       current count 4                                      ahead 1, before 1, counts, 4 each
--   from LOGS on      entries   0                                                    the time of each entry, 4, 5 or 6
--   else: GCRA        arrival time 8, in total and rest together                     nothing
--
-- The loop handles one spec and its track at a time. `at` is where the track's body begins. Bodies before `kept` are in
-- `bodies` with their changes; those from `kept` on are unchanged so far. `usual` ends as false where charge_any.lua
-- must decide; until then nothing is written.
local spec, at = 0, base + HEADER + HEAD * specs + 1
local kept, bodies = at, nil
-- The new heads. A single spec needs no table.
local heads = specs > 1 and { specs, clock, created_at, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
-- `renews`: whether the longest window has moved by a sixth since the last charge: then the time to live is set again.
local refused, binding, remains, ready, longest, renews = false, 0, 4294967296, 0, 0, false
-- When all permits are back: if nothing is charged, and if the cost is charged.
local back_uncharged, back_charged = clock, clock
while usual do
  -- For this spec: `body` is the changed body, `free` is when a refused cost fits, `room` is what is left,
  -- `turn` is whether the window has moved by a sixth. `stop` is where the body ends. `ends` and `after` are
  -- when all is back, without this charge and with it.
  local body, free, width, room, turn = nil, 0, nil, nil, not record
  local stop, ends, after = at, clock, clock
  if found ~= unit then
    -- Another kind or width than the quota's: charge_any.lua converts the track.
    usual = false
    break
  elseif unit < NO_BUCKETS then
    -- Buckets. Each is a sixtieth of the window; the current one and the 60 before it count. `one` is what
    -- one permit adds to `rest`, `start` is where the counts begin, and `older` says how many buckets before
    -- the current one have a count.
    local size, form, one, start, older = 2, '>I2', 65536, at, nil
    if unit < KIND then
      width, older = unit, rest % 65536
    else
      size, form, one, start = 4, '>I4', 1, at + 2
      width, older = unit - KIND, record and read('>I2', record, at) or 0
      body = not record and '\0\0' or nil
    end
    -- Left to charge_any.lua: a count lies ahead of the current bucket, or the current bucket is empty
    -- because the latest charge was given back.
    if older > 255 or (rest < one and total > 0) then
      usual = false
      break
    end
    stop = start + older * size
    -- A permit that is charged now is back when the current bucket has left: BUCKETS whole buckets after its
    -- end.
    local counts, begins = nil, clock - clock % width
    after = begins + (BUCKETS + 1) * width
    if begins <= latest then
      -- Still in the bucket of the latest charge: the older counts stay as they are.
      if total > 0 then
        ends = after
      end
    else
      -- A later bucket: the current count joins those before it, and the counts that have left the window are
      -- dropped. The search for a byte that is not zero skips empty buckets.
      local current = begins / width
      local moved = current - floor(latest / width)
      local gone = older + moved - BUCKETS
      turn = floor(current / SIXTH) > floor((current - moved) / SIXTH)
      ends = total > 0 and after - moved * width or clock
      if gone > older or total == 0 then
        total, older, counts, ends = 0, 0, '', clock
      else
        local place, alive = start, start + gone * size
        while place < alive do
          total = total - read(form, record, place)
          place = string.find(record, '%Z', place + size) or stop
          place = place - (place - start) % size
        end
        if place > stop then
          place = stop
        end
        local current_at = base + HEADER + HEAD * spec + 11
        counts = sub(record, place, stop - 1) .. sub(record, current_at, current_at + size - 1)
        if moved > 1 then
          counts = counts .. string.rep('\0', (moved - 1) * size)
        end
        older = (stop - place) / size + moved
      end
      rest, body = older, counts
      if size == 4 then
        rest, body = 0, pack('>I2', older) .. counts
      end
    end
    if BUCKETS * width > longest then
      longest, renews = BUCKETS * width, turn
    end
    room = limit - total
    if room < cost then
      -- The buckets leave oldest first. If the oldest alone makes enough room, its end is the time to wait
      -- for; if not, charge_any.lua adds up more of them.
      local first = total
      if older > 0 then
        first = read(form, counts or record, counts and 1 or start)
      end
      if room + first < cost then
        usual = false
        break
      end
      free = after - older * width
    else
      total, rest = total + cost, rest + cost * one
    end
  elseif unit >= LOGS then
    -- A log has the time of each permit, oldest first. An entry has the low bytes of its time, so an age is a
    -- difference modulo `epoch`.
    local size = floor(unit / KIND)
    local form, epoch, gone = size == 4 and '>I4' or size == 5 and '>I5' or '>I6', 256 ^ size, 0
    width, stop = unit - size * KIND, at + total * size
    after = clock + width
    if total > 0 then
      local age = (latest - read(form, record, stop - size)) % epoch
      -- An age of years is that of a permit that lies in the future.
      if age >= AHEAD then
        usual = false
        break
      end
      -- Drop what has left the window: everything, or up to 20 entries from the front. More is left to
      -- charge_any.lua, which finds the place by bisection.
      if latest - age + width <= clock then
        gone, total = total, 0
      else
        ends = latest - age + width
        while gone < MOST_GONE and latest - (latest - read(form, record, at + gone * size)) % epoch + width <= clock do
          gone = gone + 1
        end
        if gone == MOST_GONE then
          usual = false
          break
        end
        total = total - gone
      end
    end
    if width > longest then
      longest, renews = width, turn or floor(clock / width * 6) > floor(latest / width * 6)
    end
    room = limit - total
    if room < cost then
      -- Refused: find the entry that must leave before the cost fits.
      local place = at + (gone + cost - room - 1) * size
      if place >= stop then
        usual = false
        break
      end
      free = latest - (latest - read(form, record, place)) % epoch + width
    elseif not refused then
      -- Granted so far: append one entry for each permit.
      body = pack(form, clock % epoch)
      if cost > 1 then
        body = string.rep(body, cost)
      end
      if total > 0 then
        body = sub(record, at + gone * size, stop - 1) .. body
      end
      total = total + cost
    end
  else
    -- GCRA, which charge_any.lua decides.
    usual = false
    break
  end
  -- Of the specs that refuse, the one that is free last decides. Of those that grant, the one with the least
  -- left.
  if free > 0 then
    if free > ready then
      ready, binding, remains = free, spec, room > 0 and room or 0
    end
    refused = true
  elseif not refused then
    if room - cost < remains then
      binding, remains = spec, room - cost
    end
    if body then
      bodies = at > kept and (bodies or '') .. sub(record, kept, at - 1) .. body or bodies and bodies .. body or body
      kept = stop
    end
    if heads then
      local place = 3 * spec
      heads[place + 4], heads[place + 5], heads[place + 6] = unit, total, rest
    end
  end
  -- On to the next spec.
  if ends > back_uncharged then
    back_uncharged = ends
  end
  if after > back_charged then
    back_charged = after
  end
  spec = spec + 1
  if spec == specs then
    break
  end
  at = stop
  unit, limit = read('>I6I4', given, from + step * spec)
  if record then
    found, total, rest = read('>I6I4I4', record, base + HEADER + HEAD * spec + 1)
  else
    found, total, rest = unit, 0, 0
  end
end
-- The reply: a refusal, if no turn is to be booked and no penalty is due; or what a PEEK finds; or a grant, which
-- writes the record.
local is_blocked = blocked > clock
local label = over > 0 and sub(record, 41 + 25 * binding, 55 + 25 * binding) or ''
if usual and (is_blocked or refused and (peeks or not ARGV[2])) then
  if is_blocked then
    ready, back_uncharged, remains = math.max(ready, blocked), math.max(back_uncharged, blocked), 0
  end
  -- If the override ends before that time, charge_any.lua knows what counts from then on.
  if over == 0 or ready < over then
    return pack('>I4BI4I7I7', 0, binding, remains, back_uncharged - clock, ready - clock) .. label
  end
elseif usual and peeks then
  return pack('>I4BI4I7I7I7', cost, binding, remains + cost, back_uncharged - clock, clock, created_at) .. label
elseif usual and not refused and not (renews and base > 0) then
  local written
  if specs == 1 then
    written = pack('>BI7I7I6I4I4', 1, clock, created_at, unit, total, rest)
  elseif specs == 4 then
    written = pack('>BI7I7I6I4I4I6I4I4I6I4I4I6I4I4', unpack(heads))
  else
    written = pack('>BI7I7' .. string.rep('I6I4I4', specs), unpack(heads))
  end
  bodies = bodies or ''
  if record and not renews and #written + #bodies == kept - 1 - base then
    -- All that follows is unchanged and stays in its place, so the write covers only what is before it.
    call('SETRANGE', KEYS[1], base > 0 and base or '0', written .. bodies)
  else
    written = written .. bodies .. (record and kept <= #record and sub(record, kept) or '')
    if renews then
      call('SET', KEYS[1], written, 'PX', sub(ask, 6 + 10 * specs))
    else
      call('SET', KEYS[1], base > 0 and sub(record, 1, base) .. written or written, 'KEEPTTL')
    end
  end
  return pack('>I4BI4I7I7I7', cost, binding, remains, back_charged - clock, clock, created_at) .. label
end
-- include limit/charge_any.lua: the rest of the operation
