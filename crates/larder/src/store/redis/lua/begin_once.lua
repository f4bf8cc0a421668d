-- Begins work that is to run once, unless its result is there or another run is known.
-- KEYS: 1 the entry, under which the result is stored, 2 the mark of a run, 3 its pulse, 4 what says that this run was
-- given up
-- ARGV: 1 the run's token, 2 milliseconds until it counts as interrupted unless it is renewed, 3 milliseconds to keep
-- the mark, 4 bytes of the entry that are no result ('' for none), 5 '1' to take the place of an interrupted run
-- Reply: {0} begun, {1, the entry}, {2, milliseconds until the run under way counts as interrupted}, {3} interrupted,
-- {4} its caller gave it up before this arrived
if redis.call('GET', KEYS[4]) then
  return {4}
end
local there = redis.call('GET', KEYS[1])
if there and there ~= '' and there ~= ARGV[4] then
  return {1, there}
end
if redis.call('GET', KEYS[2]) then
  local left = redis.call('PTTL', KEYS[3])
  if left >= 0 then
    return {2, left}
  end
  if ARGV[5] ~= '1' then
    return {3}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {0}
