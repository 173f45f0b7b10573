-- Repair: what agrees with nothing

-- Returns the sizes of the bodies with these ids together, that of the largest, and the groups that the messages wait
-- in, by id; and how many of them have a key they are not known by, which is mended.
local function sizes_of(u, ids, is_mending)
  local sum, largest, waiting, unknown = 0, 0, {}, 0
  for first = 1, #ids, 16 do
    local last = math.min(first + 15, #ids)
    for at, value in ipairs(redis.call('HMGET', u.K[H], unpack(ids, first, last))) do
      local size = #value - head_length(value)
      sum, largest = sum + size, math.max(largest, size)
      local group = group_of(value)
      if group ~= '' then waiting[ids[first + at - 1]] = group end
      unknown = unknown + keys.repair(u, ids[first + at - 1], value, is_mending)
    end
  end
  return sum, largest, waiting, unknown
end

-- Compares what n and t say with the groups that messages wait in, by id, and where these are. Returns how many
-- entries are wrong or not there; mends them if `is_mending`.
local function repair_groups(u, waiting, place_of, is_mending)
  local wrong, expected, heads, outs = 0, {}, {}, {}
  for id, group in pairs(waiting) do
    local is_ready, number = place_of[id] == IN_GROUPS, tonumber(id)
    local of = is_ready and heads or outs
    of[group] = math.min(of[group] or number, number)
    expected[groups.member_of(group, is_ready and 'r' or 'o', number)] = true
  end
  for _, member in ipairs(redis.call('ZRANGE', u.K[BY_GROUP], 0, -1)) do
    if expected[member] then expected[member] = nil else wrong = wrong + 1 end
  end
  for _ in pairs(expected) do wrong = wrong + 1 end
  local found = redis.call('ZRANGE', u.K[TURNS], 0, -1, 'WITHSCORES')
  local left = {}
  for group in pairs(heads) do left[group] = true end
  for at = 1, #found, 2 do
    local group, head, is_open = found[at], heads[found[at]], found[at + 1] ~= 'inf'
    local may_be_open = head and not (outs[group] and outs[group] < head)
    local is_right = head and is_open == may_be_open
    if is_right and is_open and not u.settings.fair then is_right = tonumber(found[at + 1]) == head end
    if not is_right then wrong = wrong + 1 end
    left[group] = nil
  end
  for _ in pairs(left) do wrong = wrong + 1 end
  if wrong > 0 and is_mending then
    redis.call('DEL', u.K[BY_GROUP], u.K[TURNS])
    u.q[GROUPED] = 0
    for id, group in pairs(waiting) do
      local put = place_of[id] == IN_GROUPS and groups.enter or groups.hold
      put(u, group, tonumber(id))
    end
  end
  return wrong
end

-- Compares what a queue says with what it holds. No function leaves it otherwise, but hands from outside may, and a
-- server that lost a part of its files. ARGV: 3 whether to mend it, 4 how many fields h may have: this is one step.
--
-- Answers 'large' and their number if there are more. Else: messages that were nowhere, which are made ready; entries
-- without a message, which go; entries of messages that are elsewhere as well, which go, so that a leased message is
-- given to no other consumer; notes of messages that are gone; and 1 if its figures were wrong.
function verbs.repair(K, A)
  local u, is_mending = begin(K, A), A[3] == '1'
  local fields = redis.call('HLEN', K[H])
  if not u.q and fields == 0 then return missing(u) end
  if fields > tonumber(A[4]) then return answer(u, 'large', fields) end
  if is_mending then ensure(u, 0) end
  local bodies, notes, highest = {}, {}, 0
  for _, field in ipairs(redis.call('HKEYS', K[H])) do
    if string.find(field, '^%d+$') then
      bodies[field] = true
      highest = math.max(highest, tonumber(field))
    elseif string.find(field, '^c%d+$') then
      notes[#notes + 1] = field
    end
  end
  local place_of, strays, doubles = {}, 0, 0
  -- Those that consumers know of come first, for there they stay.
  for _, place in ipairs({ X, D, B, IN_GROUPS, L }) do
    local key = K[place]
    local members = place == L and redis.call('LRANGE', key, 0, -1) or redis.call('ZRANGE', key, 0, -1)
    for _, member in ipairs(members) do
      local id = member
      if place == X or place == D then
        id = #member >= 16 and id_of(member)
        id = id and string.format('%d', id)
      end
      if id and bodies[id] and not place_of[id] then
        place_of[id] = place
      else
        if id and bodies[id] then doubles = doubles + 1 else strays = strays + 1 end
        if is_mending then
          if place ~= L then
            redis.call('ZREM', key, member)
          elseif id and place_of[id] == L then
            redis.call('LREM', key, -1, member) -- the last, for the first is the one that counts
          else
            redis.call('LREM', key, 1, member)
          end
        end
      end
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', K[M], 0, -1)) do
    local id = #member >= 16 and id_of(member)
    local place = id and place_of[string.format('%d', id)]
    if place ~= B and place ~= IN_GROUPS then
      strays = strays + 1
      if is_mending then redis.call('ZREM', K[M], member) end
    end
  end
  local ids, lost, idle_notes = {}, {}, {}
  for id in pairs(bodies) do
    ids[#ids + 1] = id
    if not place_of[id] then lost[#lost + 1] = id end
  end
  for _, field in ipairs(notes) do
    if not bodies[string.sub(field, 2)] then idle_notes[#idle_notes + 1] = field end
  end
  local q = u.q or newborn(K[H], u.born)
  local bytes, largest, waiting, unknown = sizes_of(u, ids, is_mending)
  local is_miscounted = q[GROUPED] ~= redis.call('ZCARD', K[BY_GROUP])
  if is_mending then
    in_pieces('HDEL', K[H], idle_notes)
    for _, id in ipairs(lost) do
      local value = kept(u, id)
      local priority, expires = read_head(value)
      local group = group_of(value)
      make_ready(u, id, priority, #value - head_length(value), expires, group)
      place_of[id] = group == '' and B or IN_GROUPS
    end
  else
    for _, id in ipairs(lost) do waiting[id] = nil end
  end
  strays = strays + repair_groups(u, waiting, place_of, is_mending) + unknown
  local true_figures = {
    [COUNT] = #ids, [BYTES] = bytes, [LINED] = redis.call('ZCARD', K[B]), [NOTED] = #notes - #idle_notes,
    [OUT] = redis.call('LLEN', K[O]), [GROUPED] = redis.call('ZCARD', K[BY_GROUP]),
  }
  local is_wrong = q[NEXT] <= highest or q[LARGEST] < largest or is_miscounted
  q[NEXT], q[LARGEST] = math.max(q[NEXT], highest + 1), math.max(q[LARGEST], largest)
  for place, number in pairs(true_figures) do
    if q[place] ~= number and not (is_mending and place == LINED and q[place] == number - #lost) then is_wrong = true end
    q[place] = number
  end
  if is_mending then
    q[DUE] = earliest(first_time(K[X]), first_time(K[D]), first_time(K[M]))
    q[INDEXED], u.sent, u.new = 0, q[OUT] > 0, true
    save(u)
  end
  return answer(u, #lost, strays, doubles, #idle_notes, is_wrong and 1 or 0)
end
