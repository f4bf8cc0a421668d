-- The version of a tag, a cache or the epoch, made on first use. It must outlive the entries that carry it, so it is kept
-- for twice the span asked for, and re-armed only when less than the span is left: each PEXPIRE wakes every client that
-- tracks the key.
-- KEYS: 1 what has the version
-- ARGV: 1 the version to give it if it has none, 2 the span in milliseconds
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
