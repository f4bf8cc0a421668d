-- Says that a run goes on, if its mark is still there.
-- KEYS: 1 the mark of the run, 2 its pulse
-- ARGV: 1 the run's token, 2 milliseconds until it counts as interrupted unless it is renewed
-- Reply: 1 if it goes on, 0 if the mark is gone or another run's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
