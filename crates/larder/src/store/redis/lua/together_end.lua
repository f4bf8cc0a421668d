end

local LOOK = struct.pack('>BI7I7I4', 4, 0, 0, 1)
local answers, passes = {}, true
-- Ask each record but the first whether it would grant.
for place = 2, #KEYS do
  answers[place] = charge_one({ KEYS[place] }, { ARGV[place], LOOK })
  passes = passes and struct.unpack('>I4', answers[place]) > 0
end
-- If all others grant, the first decides, so it is charged or refused at once.
answers[1] = charge_one({ KEYS[1] }, { ARGV[1], not passes and LOOK or nil })
if passes and struct.unpack('>I4', answers[1]) > 0 then
  -- All grant: charge the others.
  for place = 2, #KEYS do
    answers[place] = charge_one({ KEYS[place] }, { ARGV[place] })
  end
else
  -- One refuses: the records that refuse are asked again with their penalty, which blocks them.
  for place, key in ipairs(KEYS) do
    local penalty = ARGV[#KEYS + place] or ''
    if penalty ~= '' and struct.unpack('>I4', answers[place]) == 0 then
      answers[place] = charge_one({ key }, { ARGV[place], penalty })
    end
  end
end
return answers
