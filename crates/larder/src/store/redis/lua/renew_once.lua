-- Says that a run goes on, if its mark is still there. Work may take longer than its mark was kept for at first.
-- KEYS: 1 the mark of the run, 2 its pulse
-- ARGV: 1 the run's token, 2 milliseconds until it counts as interrupted unless it is renewed, 3 milliseconds to keep
-- the mark, if less than half of that is left
-- Reply: 1 if it goes on, 0 if the mark is gone or another run's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('PTTL', KEYS[1]) < ARGV[3] / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
