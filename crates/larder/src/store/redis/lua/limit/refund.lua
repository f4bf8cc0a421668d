-- Gives back permits that were not used, in the place where they were charged.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the request: how many permits (4), the time that was charged (7) and the record's creation time
--   (7), both as charge.lua replied; the smallest burst of the quotas that pace, 0 if none does (4)
-- Reply: how many permits were given back; 0 if the record is another one, was converted since (to other windows or
--   methods), or no longer counts that time
-- include limit/read.lua: ask, record
-- include limit/limit.lua: BUCKETS, over, before_record, latest, created_at, now, specs_at, entries_until, tracks_of,
--   written
local permits, when, first, own = struct.unpack('>I4I7I7I4', ask)
-- After a reset, or on a server that lost the record, a new one may be there. What is in it was charged by
-- others.
if not record or created_at ~= first then
  return 0
end
local tracks, most, over_by = tracks_of(), 0, over > 0 and specs_at(0) or {}
for number, track in ipairs(tracks) do
  local width, back = track.width, 0
  if track.counts then
    local index = math.floor(when / width)
    if index >= math.floor(latest / width) - BUCKETS then
      local place = index - track.first + 1
      back = math.min(permits, track.counts[place] or 0)
      if back > 0 then
        track.counts[place], track.total = track.counts[place] - back, track.total - back
      end
    end
  elseif track.log then
    local from, to = entries_until(track, when - 1), entries_until(track, when)
    back = math.min(permits, to - from)
    track.log = string.sub(track.log, 1, from * track.size) .. string.sub(track.log, (from + back) * track.size + 1)
    track.total = track.total - back
  else
    -- GCRA: turns that were booked behind the charge keep their times, so what they stand on is not given back. A turn
    -- is booked if the cost does not fit, so while it is awaited, the arrival is more than a burst ahead. And every
    -- charge behind this one puts the arrival one interval further, so below that there is none.
    -- The burst is that of the override, if it paces; or else of the request, or the smaller one of both.
    local spec, burst = over_by[number], own
    if spec and spec.kind == 3 and spec.width == width then
      burst = own > 0 and math.min(own, spec.limit) or spec.limit
    end
    local no_turn = when <= now and track.arrival <= now + burst * width
    local nothing_behind = track.arrival < when + (permits + 1) * width
    -- What the pace has already made good is not given back. It would be available a second time, at the cost of later
    -- charges.
    local rest = math.min(permits * width - math.max(now - when, 0), track.arrival - now)
    rest = (no_turn or nothing_behind) and math.max(rest, 0) or 0
    back = math.ceil(rest / width)
    track.arrival = track.arrival - rest
  end
  most = math.max(most, back)
end
if most > 0 then
  redis.call('SET', KEYS[1], before_record() .. written(tracks), 'KEEPTTL')
end
return most
