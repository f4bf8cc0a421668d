-- Removes the mark of a run that ended without a result. If the mark is not there, the request that begins
-- this run may still arrive, over another connection; so the server remembers for a while to refuse it.
-- KEYS: 1 the mark of the run, 2 its pulse, 3 the tombstone of this run
-- ARGV: 1 the run's token, 2 milliseconds to keep the tombstone
-- Reply: OK
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2])
else
  redis.call('SET', KEYS[3], '0', 'PX', ARGV[2])
end
return redis.status_reply('OK')
