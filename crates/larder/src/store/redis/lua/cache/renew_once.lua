-- Renews a run if its mark is still there. A run may take longer than its mark was first kept for, so the
-- mark is kept for longer too.
-- KEYS: 1 the mark of the run, 2 its pulse
-- ARGV: 1 the run's token, 2 milliseconds without renewal after which the run counts as interrupted, 3
--   milliseconds to keep the mark, applied when less than half of that is left
-- Reply: 1 if the run goes on, 0 if the mark is gone or belongs to another run
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('PTTL', KEYS[1]) < ARGV[3] / 2 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
