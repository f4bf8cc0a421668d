-- Removes the mark of a run that had no result, if it is still there. If it is not, the begin of this run may still be on
-- its way, by another connection: then the server remembers for a while to refuse it.
-- KEYS: 1 the mark of the run, 2 its pulse, 3 what says that this run was given up
-- ARGV: 1 the run's token, 2 milliseconds to remember that it was given up
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2])
else
  redis.call('SET', KEYS[3], '0', 'PX', ARGV[2])
end
return redis.status_reply('OK')
