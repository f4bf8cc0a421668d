-- Charges the quotas of one key together, all or none, or tells what charging would answer.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the request, all numbers big-endian: the cost (4), how many terms (1), of each its kind and width (6, as a track
--   has them) and its limit (4), and in decimal digits for how many milliseconds the record is to live
--   2, unless it is to charge all or nothing, now: what to take (1: ALL or nothing, 1; as much as fits up to the cost, 2;
--   at most HALF of what is left, 3; nothing, only LOOK, 4; TURNS, as much as fits now or at the earliest time, 5; DEBT, up to twice the limit, 6), how
--   many microseconds ahead to charge it (7), how many microseconds ahead a turn may be booked (7), and how much 3 and 5
--   are to take at least (4). And where a refusal blocks the key, behind that or alone: for how many microseconds (7), how
--   many times as long each further block is (1), and how long a block is at most (7)
-- Reply: how much was granted (4), the term that bound, from 0 (1), what it has left (4), microseconds until all is back
--   (7); then of a refusal the microseconds to wait (7), else the time that was charged (7), that of the record's first
--   charge (7), and where that is a turn the microseconds until it comes (7); and where an override decided, what the
--   program calls the term that bound (15)
-- What costs most here is calling the server, making functions, and making strings. So what nearly every request meets
-- comes first, and alone: buckets and logs as they were left, all or nothing, now. charge_any.lua has the same rule for
-- everything; tests hold both to it.
local read, pack, floor, sub, call = struct.unpack, struct.pack, math.floor, string.sub, redis.call
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = call('GET', KEYS[1])

local cost, terms, unit, limit = read('>I4BI6I4', ask)
local latest, born, tracks, found, total, rest = clock, clock, terms, unit, 0, 0
-- Of a key that has an override or was blocked: the length of what is before its record, and until when they last. The
-- terms are in the request, or those of the override.
local base, over, blocked = 0, 0, 0
local given, from, step = ask, 6, 10
if record then
  tracks, latest, born, found, total, rest = read('>BI7I7I6I4I4', record)
  if tracks == 255 then
    local _, many, level, quiet
    base, over, _, many, blocked, level, quiet = read('>I2I7I7BI7BI4', record, 2)
    -- charge_any.lua leaves out what has ended, and says how long a record lives that begins.
    if #record > base and (over == 0 or over > clock) and (level == 0 or clock < blocked + quiet * 1000000) then
      tracks, latest, born, found, total, rest = read('>BI7I7I6I4I4', record, base + 1)
      if over > 0 then
        given, from, step, terms = record, 31, 25, many
        unit, limit = read('>I6I4', record, 31)
      end
    end
  end
end
local looks = ARGV[2] and sub(ARGV[2], 1, 8) == '\4\0\0\0\0\0\0\0'
-- A clock that steps back must not open a window again: charge_any.lua goes on by the record's own time.
local usual = tracks == terms and latest <= clock and (not ARGV[2] or looks or #ARGV[2] == 15)
-- where the term's body stands, from where on bodies are as they were, and what comes before
local term, at = 0, base + 16 + 14 * terms
local kept, bodies = at, nil
-- One term needs no table.
local heads = terms > 1 and { terms, clock, born, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
-- `anew`: whether the longest window has gone on by a sixth, so that the record is to be told anew how long it lives.
local refused, binding, remains, ready, longest, anew = false, 0, 4294967296, 0, 0, false
-- when all is back, as it stands and once it is charged
local stands, charged = clock, clock
while usual do
  local body, free, width, room, turn = nil, 0, nil, nil, not record
  local stop, ends, after = at, clock, clock
  if found ~= unit then
    usual = false
    break
  elseif unit < 70368744177664 then
    local size, form, one, start, older = 2, '>I2', 65536, at, nil
    if unit < 35184372088832 then
      width, older = unit, rest % 65536
    else
      size, form, one, start = 4, '>I4', 1, at + 2
      width, older = unit - 35184372088832, record and read('>I2', record, at) or 0
      body = not record and '\0\0' or nil
    end
    -- Something lies ahead, or the latest charge was given back.
    if older > 255 or (rest < one and total > 0) then
      usual = false
      break
    end
    stop = start + older * size
    local counts, begins = nil, clock - clock % width
    after = begins + 61 * width
    if begins <= latest then
      if total > 0 then
        ends = after
      end
    else
      -- The count of the bucket that was the current one joins those before it, and what counts no longer leaves.
      local current = begins / width
      local moved = current - floor(latest / width)
      local gone = older + moved - 60
      turn = floor(current / 10) > floor((current - moved) / 10)
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
        counts = sub(record, place, stop - 1) .. sub(record, base + 26 + 14 * term, base + 25 + 14 * term + size)
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
    if 60 * width > longest then
      longest, anew = 60 * width, turn
    end
    room = limit - total
    if room < cost then
      -- What leaves first comes first.
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
  elseif unit >= 140737488355328 then
    local size = floor(unit / 35184372088832)
    local form, epoch, gone = size == 4 and '>I4' or size == 5 and '>I5' or '>I6', 256 ^ size, 0
    width, stop = unit - size * 35184372088832, at + total * size
    after = clock + width
    if total > 0 then
      local age = (latest - read(form, record, stop - size)) % epoch
      -- An age of years is that of a permit that lies ahead.
      if age >= 140737488355328 then
        usual = false
        break
      end
      if latest - age + width <= clock then
        gone, total = total, 0
      else
        ends = latest - age + width
        while gone < 20 and latest - (latest - read(form, record, at + gone * size)) % epoch + width <= clock do
          gone = gone + 1
        end
        if gone == 20 then
          usual = false
          break
        end
        total = total - gone
      end
    end
    if width > longest then
      longest, anew = width, turn or floor(clock / width * 6) > floor(latest / width * 6)
    end
    room = limit - total
    if room < cost then
      local place = at + (gone + cost - room - 1) * size
      if place >= stop then
        usual = false
        break
      end
      free = latest - (latest - read(form, record, place)) % epoch + width
    elseif not refused then
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
    usual = false
    break
  end
  if free > 0 then
    if free > ready then
      ready, binding, remains = free, term, room > 0 and room or 0
    end
    refused = true
  elseif not refused then
    if room - cost < remains then
      binding, remains = term, room - cost
    end
    if body then
      bodies = at > kept and (bodies or '') .. sub(record, kept, at - 1) .. body or bodies and bodies .. body or body
      kept = stop
    end
    if heads then
      local place = 3 * term
      heads[place + 4], heads[place + 5], heads[place + 6] = unit, total, rest
    end
  end
  if ends > stands then
    stands = ends
  end
  if after > charged then
    charged = after
  end
  term = term + 1
  if term == terms then
    break
  end
  at = stop
  unit, limit = read('>I6I4', given, from + step * term)
  if record then
    found, total, rest = read('>I6I4I4', record, base + 16 + 14 * term)
  else
    found, total, rest = unit, 0, 0
  end
end
local held = blocked > clock
local label = over > 0 and sub(record, 41 + 25 * binding, 55 + 25 * binding) or ''
if usual and (held or refused and (looks or not ARGV[2])) then
  if held then
    ready, stands, remains = math.max(ready, blocked), math.max(stands, blocked), 0
  end
  -- An override that ends before that: charge_any.lua knows what holds from then on.
  if over == 0 or ready < over then
    return pack('>I4BI4I7I7', 0, binding, remains, stands - clock, ready - clock) .. label
  end
elseif usual and looks then
  return pack('>I4BI4I7I7I7', cost, binding, remains + cost, stands - clock, clock, born) .. label
elseif usual and not refused and not (anew and base > 0) then
  local written
  if terms == 1 then
    written = pack('>BI7I7I6I4I4', 1, clock, born, unit, total, rest)
  elseif terms == 4 then
    written = pack('>BI7I7I6I4I4I6I4I4I6I4I4I6I4I4', unpack(heads))
  else
    written = pack('>BI7I7' .. string.rep('I6I4I4', terms), unpack(heads))
  end
  bodies = bodies or ''
  if record and not anew and #written + #bodies == kept - 1 - base then
    -- What comes after is as it was, where it was.
    call('SETRANGE', KEYS[1], base > 0 and base or '0', written .. bodies)
  else
    written = written .. bodies .. (record and kept <= #record and sub(record, kept) or '')
    if anew then
      call('SET', KEYS[1], written, 'PX', sub(ask, 6 + 10 * terms))
    else
      call('SET', KEYS[1], base > 0 and sub(record, 1, base) .. written or written, 'KEEPTTL')
    end
  end
  return pack('>I4BI4I7I7I7', cost, binding, remains, charged - clock, clock, born) .. label
end
