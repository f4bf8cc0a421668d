end

local LOOK = struct.pack('>BI7I7I4', 4, 0, 0, 1)
local answers, passes = {}, true
for place, key in ipairs(KEYS) do
  answers[place] = charge_one({ key }, { ARGV[place], LOOK })
  passes = passes and struct.unpack('>I4', answers[place]) > 0
end
if passes then
  for place, key in ipairs(KEYS) do
    answers[place] = charge_one({ key }, { ARGV[place] })
  end
else
  for place, key in ipairs(KEYS) do
    local penalty = ARGV[#KEYS + place] or ''
    if penalty ~= '' and struct.unpack('>I4', answers[place]) == 0 then
      answers[place] = charge_one({ key }, { ARGV[place], penalty })
    end
  end
end
return answers
