-- Stores the result of a run if the run's mark is still there, and removes the mark.
-- KEYS: 1 the entry, 2 the mark of the run, 3 its pulse
-- ARGV: 1 the run's token, 2 the result, 3 milliseconds to keep it, 0 for ever
-- Reply: 1 if it was stored, 0 if the mark is gone or belongs to another run
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
