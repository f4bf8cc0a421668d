-- Gives a key other limits for a while, ends that, or reads it.
-- KEYS: 1 the record, see limit.lua
-- ARGV: 1 the microseconds that the override lasts (7); the milliseconds that a record lives by the override's specs
--   (7) and by the program's own (7); the own specs as in a request of charge.lua; and the override's specs as they
--   are in front of a record (25 each). Without the latter the override ends. No argument reads the override
-- Reply: {microseconds left, its specs} of the override before the change
-- include limit/read.lua: ask, clock, record
-- include limit/limit.lua: over, over_lives, over_specs, blocked, quiet, marked, before_record, now, specs_from,
--   specs_at, tracks_of, ends, tracks_for
local answer = { over > 0 and over - clock or 0, over_specs }
if ask == '' then
  return answer
end
local span, lives, own_lives, own = struct.unpack('>I7I7I7B', ask)
over_specs = string.sub(ask, 23 + 10 * own)
marked, over, over_lives = false, 0, 0
if #over_specs > 0 then
  over, over_lives = clock + span, lives
end
if before_record() == '' and not record then
  redis.call('UNLINK', KEYS[1])
  return answer
end
-- The record lives until the override has ended and the block no longer matters. If something was charged, it also
-- lives for as long as charge.lua relies on, and until nothing counts any more: by the specs that hold now, by the
-- program's own, which hold after the override, and by the record's, as another program may have charged it. It no
-- longer lives until an earlier override would have ended.
local last, rest = math.max(over, blocked + quiet * 1000000), 0
if record then
  local own_specs = specs_from(22)
  for _, specs in ipairs({ own_specs, specs_at(22) }) do
    for _, track in ipairs((tracks_for(specs))) do
      local source = track.source
      last = math.max(last, ends(track), source and source.arrival or 0)
    end
  end
  rest = math.max(own_lives, over_lives) + math.ceil((now - clock) / 1000)
  for _, track in ipairs(tracks_of()) do
    last = math.max(last, ends(track))
  end
  -- Most charges by the quotas of the record's tracks do not set the time to live. If those are not the program's own,
  -- it may now be too short for them. So the next charge sets it, whichever quotas it has.
  local _, same = tracks_for(own_specs)
  marked = over == 0 and not same
end
rest = math.max(rest, math.ceil((last - clock) / 1000) + 1)
redis.call('SET', KEYS[1], before_record() .. (record or ''), 'PX', string.format('%d', rest))
return answer
