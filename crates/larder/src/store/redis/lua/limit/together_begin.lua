-- Charges several records together, all or none. together_end.lua is the end of this script.
-- KEYS: the records, see limit.lua
-- ARGV: for each record the request as in charge.lua; then, unless no record has a penalty, the penalty of
--   each, or ''
-- Reply: for each record what charge.lua replies. If one refuses, nothing is charged, and each reply is what
--   that record would reply alone. The records that refuse are blocked if they have a penalty. A key whose
--   override ends before the longest wait is refused for as long as the request's own terms refuse it, if that
--   is longer
-- charge.lua, limit.lua and charge_any.lua become the body of a function here, which gets its own KEYS and
-- ARGV. All charges use one reading of the clock: a clock that steps back between two of them must not charge
-- only some.
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
