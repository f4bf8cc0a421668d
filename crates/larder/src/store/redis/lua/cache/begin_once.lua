-- Begins work that must run once, unless its result is stored or another run is under way.
-- KEYS: 1 the entry that will hold the result, 2 the mark of a run, 3 its pulse, 4 the tombstone of this run
-- ARGV: 1 the run's token, 2 milliseconds without renewal after which the run counts as interrupted, 3
--   milliseconds to keep the mark, 4 bytes of the entry that are not a result ('' for none), 5 '1' to replace
--   an interrupted run
-- Reply: {0} begun; {1, the entry} the result is stored; {2, milliseconds until the run under way counts as
--   interrupted}; {3} the run was interrupted; {4} this run was cancelled before this request arrived
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
