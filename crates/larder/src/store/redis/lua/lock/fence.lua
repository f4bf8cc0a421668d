-- A function for the scripts that include this file because they grant a lock.
-- next_fence returns a fence that is higher than all earlier ones: than the last one, while the server
-- remembers it, and than the server's time in microseconds at every earlier grant, so that lost data does not
-- lower it. It replaces the stored fence by SET with GET, which is a write and so registers no key for
-- tracking; Redis before 7 has GETSET for that.
-- The stored fence has 16 digits, followed by a space and the holder's process.
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
