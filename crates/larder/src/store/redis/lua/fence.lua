-- Stands inside the scripts that grant a lock. No script by itself.
--
-- Higher than any before: than the last one given while that is remembered, and than the server's time in microseconds at
-- every earlier grant, so that lost data does not lower it. SET with GET is a write, so nobody's reads are tracked by it; before
-- Redis 7, where it is not for every server, GETSET.
-- The number has 16 digits; a space and the holder's process follow.
local function next_fence(key, kept, time, process)
  local fence = time[1] * 1000000 + time[2]
  local text = time[1] .. string.sub('00000' .. time[2], -6) .. process
  local last
  if redis.REDIS_VERSION_NUM then
    last = redis.call('SET', key, text, 'PX', kept, 'GET')
  else
    last = redis.call('GETSET', key, text)
    redis.call('PEXPIRE', key, kept)
  end
  last = last and tonumber(string.sub(last, 1, 16))
  if last and last >= fence then
    fence = last + 1
    redis.call('SET', key, string.format('%.0f', fence) .. process, 'PX', kept)
  end
  return fence
end
