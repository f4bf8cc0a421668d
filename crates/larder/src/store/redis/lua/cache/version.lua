-- Reads the version of a tag, a cache or the epoch, and creates it on first use. A version must outlive the
-- entries that carry it. So it is kept for twice the given span, and its time is renewed only when less than
-- the span is left: each PEXPIRE notifies every client that tracks the key.
-- KEYS: 1 the version's key
-- ARGV: 1 the version to store if there is none, 2 the span in milliseconds
-- Reply: {the version, milliseconds it is kept}
local version = redis.call('GET', KEYS[1])
local twice = 2 * ARGV[2]
if not version then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', twice)
  return { ARGV[1], twice }
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], twice)
  left = twice
end
return { version, left }
