-- Charges the quotas of one key together, all or none, or tells what charging would answer.
-- KEYS: 1 the record
-- ARGV: 1 the request, all numbers big-endian: the cost (4), how many terms (1), and of each its kind (1, see limit.lua),
--   its width (6) and its limit (4)
--   2, unless it is to charge all or nothing, now: what to take (1: ALL or nothing, 1; as much as fits up to the cost, 2;
--   at most HALF of what is left, 3; nothing, only LOOK, 4), how many microseconds ahead to charge it (7), how many
--   microseconds ahead a turn may be booked (7)
-- Reply: how much was granted (4), the term that bound, from 0 (1), what it has left (4), microseconds to wait (7),
--   microseconds until all is back (7), the time that was charged, 0 where nothing was (7)
-- What costs most here is calling the server, making functions, and making strings. So what nearly every request meets
-- comes first, and alone: buckets and logs as they were left, all or nothing, now. charge_any.lua has the same rule for
-- everything; tests hold both to it.
local ALL, HALF, LOOK, EPOCH = 1, 3, 4, 281474976710656
local unpack, pack, floor = struct.unpack, struct.pack, math.floor
local byte, char, sub, find = string.byte, string.char, string.sub, string.find
local ask = ARGV[1]
local time = redis.call('TIME')
local clock = time[1] * 1000000 + time[2]
local record = redis.call('GET', KEYS[1])

local cost, terms, kind, width, limit = unpack('>I4BBI6I4', ask)
local now, latest, tracks, found, wide, total = clock, clock, terms, nil, nil, 0
if record then
  tracks, latest, found, wide, total = unpack('>BI7BI6I4', record)
  -- A clock that steps back must not open a window again: the record's own time never does.
  now = latest > clock and latest or clock
end
local usual = tracks == terms and not ARGV[2]
local one, two, three, four, parts
local size, at, same, refused = 0, 9, record, false
local binding, remains, ready = 0, 4294967296, 0
-- when all is back, as it stands and once it is charged
local stands, charged = clock, clock
for term = 0, usual and terms - 1 or -1 do
  if term > 0 then
    kind, width, limit = unpack('>BI6I4', ask, 6 + 11 * term)
    if record then
      found, wide, total = unpack('>BI6I4', record, at)
    end
  end
  if record and (found ~= kind or wide ~= width) then
    usual = false
    break
  end
  local ends, after, free = 0, 0, 0
  local room = limit - total
  if kind <= 4 then
    local head, current = at + 11, floor(now / width)
    local slot, old = current % 61, current
    if record then
      old = floor(latest / width)
    end
    local gone, cleared = current - old, nil
    if gone > 0 then
      same = false
      -- The buckets that count no longer stood where those since the last charge will: from the old one's next slot on.
      local first, past, stop = (old + 1) % 61, (old + 1) % 61 + gone, head + 61 * kind
      if gone > 60 then
        total, cleared = 0, string.rep('\0', 61 * kind)
      elseif total > 0 then
        local counts, dead = sub(record, head, stop - 1), nil
        if past <= 61 then
          dead = sub(counts, first * kind + 1, past * kind)
          cleared = sub(counts, 1, first * kind) .. string.rep('\0', gone * kind) .. sub(counts, past * kind + 1)
        else
          past = past - 61
          dead = sub(counts, first * kind + 1) .. sub(counts, 1, past * kind)
          cleared = string.rep('\0', past * kind) .. sub(counts, past * kind + 1, first * kind)
            .. string.rep('\0', (61 - first) * kind)
        end
        local place = find(dead, '%Z')
        while place do
          place = place - (place - 1) % kind
          total = total - unpack(kind == 2 and '>I2' or '>I4', dead, place)
          place = find(dead, '%Z', place + kind)
        end
      end
    end
    if total > 0 then
      ends = (old + 61) * width
    end
    room = limit - total
    if room < cost then
      -- What leaves first stands behind the current bucket, or else at the ring's beginning.
      local place = find(record, '%Z', head + (current + 1) % 61 * kind)
      if not place or place >= head + 61 * kind then
        place = find(record, '%Z', head)
      end
      place = place - (place - head) % kind
      if room + unpack(kind == 2 and '>I2' or '>I4', record, place) < cost then
        usual = false
        break
      end
      free = (current + 1 + ((place - head) / kind - current - 1) % 61) * width
    elseif not refused then
      if not record then
        two = string.rep('\0', slot * kind)
        three = kind == 2 and pack('>I2', cost) or pack('>I4', cost)
        four = string.rep('\0', (60 - slot) * kind)
      else
        local counts, from = record, head
        if cleared then
          counts, from = cleared, 1
        end
        local place = from + slot * kind
        if kind == 2 then
          local high, low = byte(counts, place, place + 1)
          local count = high * 256 + low + cost
          three = char(floor(count / 256), count % 256)
        else
          three = pack('>I4', unpack('>I4', counts, place) + cost)
        end
        two, four = sub(counts, from, place - 1), sub(counts, place + kind, from + 61 * kind - 1)
      end
      after = (current + 61) * width
    end
    at = head + 61 * kind
  elseif kind == 6 then
    local entries = ''
    same = false
    if total > 0 then
      -- An age that wraps is that of a permit that lies ahead.
      local first, final = unpack('>I6', record, at + 11), unpack('>I6', record, at + 5 + 6 * total)
      if (now - first) % EPOCH >= width or (now - final) % EPOCH >= width then
        usual = false
        break
      end
      ends = now - (now - final) % EPOCH + width
      entries = sub(record, at + 11, at + 10 + 6 * total)
    end
    if room < cost then
      free = now - (now - unpack('>I6', record, at + 11 + 6 * (cost - room - 1))) % EPOCH + width
    elseif not refused then
      two, three, four = entries, pack('>I6', now % EPOCH), ''
      three = cost == 1 and three or string.rep(three, cost)
      after = now + width
    end
    at = at + 11 + 6 * total
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
    if term == 0 then
      one = pack('>BI7BI6I4', terms, now, kind, width, total + cost)
    else
      one = pack('>BI6I4', kind, width, total + cost)
    end
    -- One term needs no table.
    if terms > 1 then
      parts = parts or {}
      parts[size + 1], parts[size + 2], parts[size + 3], parts[size + 4] = one, two, three, four
      size = size + 4
    end
  end
  stands, charged = ends > stands and ends or stands, after > charged and after or charged
end
if usual and not refused then
  local written = parts and table.concat(parts) or one .. two .. three .. four
  if same then
    -- In the bucket of the charge before, it ends when it would have.
    redis.call('SET', KEYS[1], written, 'KEEPTTL')
  else
    redis.call('SET', KEYS[1], written, 'PX', string.format('%d', math.ceil((charged - clock) / 1000)))
  end
  return pack('>I4BI4I7I7I7', cost, binding, remains, 0, charged - clock, now)
elseif usual then
  return pack('>I4BI4I7I7I7', 0, binding, remains, ready - clock, stands - clock, 0)
end
