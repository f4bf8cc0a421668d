-- Charges several records together, all or none.
-- KEYS: the records, see limit.lua
-- ARGV: for each of them the request as charge.lua has it; then, unless none has a penalty, that of each or nothing
-- Reply: for each of them what charge.lua answers. Where one refuses nothing is charged, and the answers are what each
--   would be by itself. Those that refuse by themselves are blocked where they have a penalty.
-- charge.lua and its second half are the body of a function here, with keys and arguments of their own. All of them decide
-- at one time: a clock that steps back between two of them must not charge half of them.
local server, now_time = redis, redis.call('TIME')
local redis = {
  call = function(command, ...)
    if command == 'TIME' then
      return now_time
    end
    return server.call(command, ...)
  end,
}
local function charge_one(KEYS, ARGV)
