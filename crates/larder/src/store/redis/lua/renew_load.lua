-- A loader is alive: its placeholder, or its lease, stands for longer.
-- KEYS: 1 the entry or its lease
-- ARGV: 1 the placeholder or the claim, 2 milliseconds of liveness
-- Reply: 1 if it still stood, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
