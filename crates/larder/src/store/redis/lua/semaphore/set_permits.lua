-- Stores another number of permits, unless a number with this version or a later one is stored. Waiters that
-- want more than the new number are woken and fail. Permits that the new number adds are granted. What is
-- held is not revoked.
-- KEYS: 1 held, 2 number, 3 queue, 4 seen
-- ARGV: 1 the number, 2 its version, 3 milliseconds that a claim lasts, 4 milliseconds that a heartbeat lasts
-- Reply: 1 if this number and version are stored now, 0 if not
-- include semaphore/queue.lua: number, queue, seen, milliseconds, weight_of, keep, expire, count, create, wake, grant
local stored = redis.call('HMGET', number, 'permits', 'version')
local version = tonumber(stored[2])
if version and version >= tonumber(ARGV[2]) then
  return version == tonumber(ARGV[2]) and stored[1] == ARGV[1] and 1 or 0
end
local permits, now = tonumber(ARGV[1]), milliseconds()
if not stored[1] then
  create(ARGV[1])
end
redis.call('HSET', number, 'permits', ARGV[1], 'version', ARGV[2])
keep()
expire(now, tonumber(ARGV[4]))
for _, token in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
  if weight_of(token) > permits then
    redis.call('ZREM', queue, token)
    redis.call('HDEL', seen, token)
    wake(token, ARGV[3])
  end
end
local _, used = count()
grant(permits, used, now, ARGV[3], tonumber(ARGV[4]))
return 1
