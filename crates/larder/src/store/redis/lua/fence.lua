-- Stands inside the scripts that grant a lock. No script by itself.
--
-- Higher than any before: than the last one given while that is remembered, and than the server's time in microseconds at
-- every earlier grant, so that lost data does not lower it. GETSET is a write, so nobody's reads are tracked by it.
local function next_fence(key, ttl, time)
  local now = time[1] * 1000000 + time[2]
  local last = tonumber(redis.call('GETSET', key, string.format('%.0f', now))) or 0
  local fence = math.max(now, last + 1)
  if fence ~= now then
    redis.call('SET', key, string.format('%.0f', fence))
  end
  -- The time is the floor; the last fence only matters while a clock could step back behind it.
  redis.call('PEXPIRE', key, ttl + 60000)
  return fence
end

