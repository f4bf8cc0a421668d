-- Removes the mark of a run that had no result, if it is still there.
-- KEYS: 1 the mark of the run, 2 its pulse
-- ARGV: 1 the run's token
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2])
end
return redis.status_reply('OK')
